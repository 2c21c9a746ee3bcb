#include "server/session/parked_tensors.h"

#include <cstdlib>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/state_texts.h"

namespace mnemosyne::server {

void ParkedTensors::Free::operator()(std::byte* memory) const { std::free(memory); }

absl::StatusOr<std::unique_ptr<ParkedTensors>> ParkedTensors::Take(
    const std::vector<optim::StateTensor>& tensors,
    std::span<const optim::ParameterSpec> parameters, kernels::Backend& backend) {
  std::unique_ptr<ParkedTensors> parked(new ParkedTensors());
  for (const optim::StateTensor& tensor : tensors) {
    parked->tensors_.push_back(DescribeTensor(tensor, parameters));
    parked->size_ += tensor.byte_count;
  }
  // A state without numbers still has an address.
  parked->bytes_.reset(static_cast<std::byte*>(std::malloc(parked->size_ + 1)));
  if (parked->bytes_ == nullptr) return ResourceExhausted("out of memory: {} bytes", parked->size_);
  std::byte* to = parked->bytes_.get();
  for (const optim::StateTensor& tensor : tensors) {
    FAIL_POINT("park.download");
    MNEMO_RETURN_IF_ERROR(backend.Download(tensor.data, to, tensor.byte_count));
    to += tensor.byte_count;
  }
  return parked;
}

absl::Status ParkedTensors::PutInto(const std::vector<optim::StateTensor>& tensors,
                                    kernels::Backend& backend) const {
  if (tensors.size() != tensors_.size()) {
    return Internal("a parked state has {} tensors, not {}", tensors_.size(), tensors.size());
  }
  const std::byte* from = bytes_.get();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].byte_count != tensors_[i].byte_count) {
      return Internal("a parked tensor '{}' has {} bytes, not {}", tensors_[i].name,
                      tensors_[i].byte_count, tensors[i].byte_count);
    }
    FAIL_POINT("park.upload");
    MNEMO_RETURN_IF_ERROR(backend.Upload(from, tensors[i].data, tensors[i].byte_count));
    from += tensors[i].byte_count;
  }
  return backend.Synchronize();
}

}  // namespace mnemosyne::server
