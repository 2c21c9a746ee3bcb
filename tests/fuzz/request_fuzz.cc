// Feeds arbitrary messages to what reads requests: protobuf, our own types, all checks, the layout
// of a session and the kernel of attention. What is accepted must have sizes that can be computed
// with.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mnemosyne/v1/attention_service.pb.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "optim/parameter_spec.h"
#include "server/rpc/attention_codec.h"
#include "server/rpc/session_codec.h"
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

void TryAttend(const mnemosyne::v1::AttentionKernel& proto) {
  (void)mnemosyne::server::TensorType(proto);
  const auto kernel = FromProto(proto);
  if (!kernel.ok()) return;
  const mnemosyne::kernels::FltSizes& sizes = kernel->sizes;
  if (sizes.heads > 4096 || sizes.dim > mnemosyne::kernels::kFltDimMax ||
      sizes.value_dim > mnemosyne::kernels::kFltDimMax ||
      sizes.map.features > mnemosyne::kernels::kFltFeatureMax ||
      sizes.waves > mnemosyne::kernels::kFltWaveMax) {
    std::abort();
  }
}

template <typename Message, typename Try>
void Read(const uint8_t* bytes, int length, const Try& attempt) {
  Message message;
  if (message.ParseFromArray(bytes, length)) attempt(message);
}

void TryStep(const mnemosyne::v1::StepRequest& request) {
  (void)FromProto(request.begin());
  (void)mnemosyne::server::WireEncoding(request.gradient_encoding(), "gradient_encoding");
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
  switch (data[0] % 4) {
    case 0:
      Read<mnemosyne::v1::CreateSessionRequest>(bytes, length, &TryCreate);
      break;
    case 1:
      Read<mnemosyne::v1::UpdateSessionRequest>(bytes, length, &TryUpdate);
      break;
    case 2:
      Read<mnemosyne::v1::StepRequest>(bytes, length, &TryStep);
      break;
    default:
      Read<mnemosyne::v1::AttentionKernel>(bytes, length, &TryAttend);
  }
  return 0;
}
