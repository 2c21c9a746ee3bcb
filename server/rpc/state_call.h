// ExportState and ImportState: a session's state on its way out and in.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/statusor.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "server/rpc/call_watch.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/stream_owner.h"
#include "server/session/session_store.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// What ends the call if its client stops; or why the call is refused at once.
using Watch = absl::StatusOr<std::shared_ptr<CallWatch>>;

// Sends a state, in the session's turn. The reactor owns itself.
grpc::ServerWriteReactor<v1::ExportStateResponse>* StartExport(
    SessionStore& store, StreamOwner owner, Watch watch, const v1::ExportStateRequest& request,
    ConnectionCall call);

// Receives a state aside, and puts it in place once all of it is there and valid. The reactor owns
// itself; `response` lives until it is done.
grpc::ServerReadReactor<v1::ImportStateRequest>* StartImport(SessionStore& store, StreamOwner owner,
                                                             Watch watch,
                                                             v1::ImportStateResponse& response,
                                                             ConnectionCall call);

}  // namespace mnemosyne::server
