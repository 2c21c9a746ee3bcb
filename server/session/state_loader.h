// Loads the state of a session from its folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/session/session.h"
#include "server/session/session_record.h"
#include "server/session/step_executor.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// What a load did.
struct LoadReport {
  Generation generation;
  int64_t byte_count = 0;
  int64_t logged_steps = 0;              // Taken again from the logs.
  std::vector<std::string> passed_over;  // What could not be used, and why.
  double seconds = 0;
};

// The record of the newest snapshot of a session whose header can be trusted. DataLoss if there is
// none; `passed_over` gets what is wrong with the others.
absl::StatusOr<SessionRecord> ReadRecord(const SessionFolder& folder,
                                         std::vector<std::string>& passed_over);

// Allocates the session's state and fills it with its newest good snapshot, then takes the steps
// that were logged after it. Torn and rotten snapshots are set aside. In the session's turn, not on
// the executor's thread; the session has its reservation.
//
// DataLoss if no snapshot is good: then the session is not resident. ResourceExhausted if the
// device has no room.
absl::StatusOr<LoadReport> LoadState(const std::shared_ptr<Session>& session,
                                     const SessionFolder& folder);

}  // namespace mnemosyne::server
