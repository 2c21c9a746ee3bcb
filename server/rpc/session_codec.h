// Sessions, their specs and their steps, as messages and as our own types.
#pragma once

#include <google/protobuf/field_mask.pb.h>

#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "mnemosyne/v1/optimize_stream.pb.h"
#include "mnemosyne/v1/optimizer.pb.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "mnemosyne/v1/session.pb.h"
#include "optim/optimizer.h"
#include "server/model/model_registry.h"
#include "server/session/session.h"
#include "server/session/session_spec.h"
#include "server/session/step_request.h"

namespace mnemosyne::server {

// Reads a spec. InvalidArgument (INVALID_SPEC, INVALID_PARAMETER) for values outside their enums,
// negative groups, and what is not served yet.
absl::StatusOr<SessionSpec> FromProto(const v1::SessionSpec& proto);

// Takes the parts of `changes` that `mask` names into `spec`. InvalidArgument (INVALID_SPEC) for a
// path that cannot be changed, with the list of those that can.
absl::Status MergeSpec(const v1::SessionSpec& changes, const google::protobuf::FieldMask& mask,
                       SessionSpec& spec);

// The session for others to see; its parameters only if asked for.
v1::Session ToProto(const Session& session, bool with_parameters);

// The spec with every hyper-parameter filled in.
v1::SessionSpec SpecToProto(const Session& session, bool with_parameters);

v1::Optimizer ToProto(const optim::OptimizerInfo& info);
v1::ReloadModelsResponse ToProto(const ModelReload& reload);

StepRequest FromProto(const v1::StepBegin& proto);
// The answer to a step of a session that stands at `progress`.
v1::StepDone ToProto(const StepOutcome& outcome, const Session::Progress& progress);

// The encoding of a stream: unset is float32. InvalidArgument (UNSUPPORTED) for a type that does
// not travel; `what` names the field.
absl::StatusOr<DataType> WireEncoding(v1::DataType type, std::string_view what);

google::protobuf::Timestamp ToProto(Clock::Time time);

}  // namespace mnemosyne::server
