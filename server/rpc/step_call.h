// The unary Step: one whole step in one message.
#pragma once

#include "mnemosyne/v1/optimizer_service.pb.h"
#include "server/rpc/unary_call.h"
#include "server/security/caller.h"
#include "server/session/session_store.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Runs the step of `request` and ends `call`, at once or on the executor's thread. gRPC
// keeps `request` and `response` alive until then. `message_bytes_max` bounds the answer.
void RunStepCall(const Caller& caller, SessionStore& store, int64_t message_bytes_max,
                 const v1::StepRequest& request, v1::StepResponse& response, UnaryCall& call);

}  // namespace mnemosyne::server
