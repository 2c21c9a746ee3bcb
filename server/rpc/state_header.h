// The head of an exported state: what it says, and whether it fits a session.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "mnemosyne/v1/state.pb.h"
#include "optim/optimizer.h"
#include "server/session/session.h"

namespace mnemosyne::server {

// The head of a session's state whose tensors are `tensors`. In the session's turn.
v1::StateHeader MakeStateHeader(const Session& session,
                                const std::vector<optim::StateTensor>& tensors);

// Ok if a state with this head can replace the session's, whose tensors are `tensors`. Else
// InvalidArgument with reason STATE_MISMATCH; the message says what differs.
absl::Status CheckStateHeader(const v1::StateHeader& header, const Session& session,
                              const std::vector<optim::StateTensor>& tensors);

}  // namespace mnemosyne::server
