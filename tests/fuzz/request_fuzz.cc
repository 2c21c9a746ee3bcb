// Feeds arbitrary messages to the path of a creation: protobuf, our own types, all checks, and the
// layout. What is accepted must have sizes that can be computed with, and come back as it was.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mnemosyne/v1/optimizer_service.pb.h"
#include "optim/parameter_spec.h"
#include "server/rpc/session_codec.h"
#include "server/rpc/state_header.h"
#include "server/session/session_spec.h"

namespace {

using mnemosyne::server::CheckSessionSpec;
using mnemosyne::server::FromProto;
using mnemosyne::server::SessionSpec;

void TryUpdate(const mnemosyne::v1::UpdateSessionRequest& request) {
  SessionSpec spec;
  spec.optimizer = "adamw";
  spec.parameters.push_back({.name = "weight", .shape = {2, 3}});
  if (MergeSpec(request.spec(), request.update_mask(), spec).ok()) (void)CheckSessionSpec(spec);
}

void TryCreate(const mnemosyne::v1::CreateSessionRequest& request) {
  auto spec = FromProto(request.spec());
  if (!spec.ok() || !CheckSessionSpec(*spec).ok()) return;
  if (spec->label.size() > 256) std::abort();
  const auto layout = mnemosyne::optim::ParameterLayout::Create(spec->parameters);
  if (!layout.ok()) return;
  size_t elements = 0;
  for (const auto& parameter : spec->parameters) {
    size_t product = 1;
    for (const int64_t extent : parameter.shape) product *= static_cast<size_t>(extent);
    elements += product;
  }
  if (layout->element_count() < elements) std::abort();
}

}  // namespace

// protobuf tells of each message that it cannot read.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto* const bytes = data + 1;
  const int length = static_cast<int>(size - 1);
  if (data[0] % 3 == 0) {
    mnemosyne::v1::CreateSessionRequest request;
    if (request.ParseFromArray(bytes, length)) TryCreate(request);
  } else if (data[0] % 3 == 1) {
    mnemosyne::v1::UpdateSessionRequest request;
    if (request.ParseFromArray(bytes, length)) TryUpdate(request);
  } else {
    mnemosyne::v1::StepRequest request;
    if (!request.ParseFromArray(bytes, length)) return 0;
    (void)FromProto(request.begin());
    (void)mnemosyne::server::WireEncoding(request.gradient_encoding(), "gradient_encoding");
  }
  return 0;
}
