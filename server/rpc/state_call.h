// ExportState and ImportState: a session's state on its way out and in.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "mnemosyne/v1/optimizer_service.pb.h"
#include "server/session/session_store.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Sends a state, in the session's turn. The reactor owns itself.
grpc::ServerWriteReactor<v1::ExportStateResponse>* StartExport(
    SessionStore& store, StepExecutor& executor, const v1::ExportStateRequest& request);

// Receives a state aside, and puts it in place once all of it is there and valid. The reactor owns
// itself; `response` lives until it is done.
grpc::ServerReadReactor<v1::ImportStateRequest>* StartImport(SessionStore& store,
                                                             StepExecutor& executor,
                                                             v1::ImportStateResponse& response);

}  // namespace mnemosyne::server
