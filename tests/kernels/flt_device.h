// Calls FLT attention with arrays of the host, on whatever backend.
#pragma once

#include <cstring>
#include <vector>

#include "base/status_macros.h"
#include "kernels/backend.h"

namespace mnemosyne::kernels {

// Copies of a call's arrays on a device, and back again.
class FltOnDevice {
 public:
  explicit FltOnDevice(Backend& backend) : backend_(backend) {}

  // `args` has arrays of the host, as if the device were one.
  absl::Status Attend(FltAttentionArgs args) {
    if (backend_.host_accessible()) return backend_.FltAttention(args);
    if (args.kernel == nullptr || args.rows.length == 0) return backend_.FltAttention(args);
    const FltSizes& sizes = args.kernel->sizes;
    const size_t rows = args.rows.batch * args.rows.length;
    for (const auto& [tensor, width] :
         {std::pair{&args.q, sizes.dim}, {&args.k, sizes.dim}, {&args.v, sizes.value_dim}}) {
      MNEMO_RETURN_IF_ERROR(Put(tensor->data, Bytes(args, *tensor, width)));
    }
    MNEMO_RETURN_IF_ERROR(Put(args.rows.mask, rows));
    const size_t entries = args.rows.positions_per_batch ? args.rows.batch : 1;
    MNEMO_RETURN_IF_ERROR(
        Put(args.rows.positions, entries * args.rows.length * sizes.positions * sizeof(float)));
    const size_t heads = args.rows.batch * sizes.heads;
    MNEMO_RETURN_IF_ERROR(PutBack(args.out.data, Bytes(args, args.out, sizes.value_dim)));
    MNEMO_RETURN_IF_ERROR(PutBack(args.state, heads * FltStateCount(sizes) * sizeof(float)));
    MNEMO_RETURN_IF_ERROR(PutBack(args.normalizers, heads * args.rows.length * 2 * sizeof(float)));
    MNEMO_RETURN_IF_ERROR(backend_.FltAttention(args));
    for (const Result& result : results_) {
      MNEMO_RETURN_IF_ERROR(backend_.Download(result.device, result.host, result.size));
    }
    return absl::OkStatus();
  }

 private:
  struct Result {
    const std::byte* device;
    std::byte* host;
    size_t size;
  };

  template <typename Tensor>
  static size_t Bytes(const FltAttentionArgs& args, const Tensor& tensor, size_t width) {
    const size_t last = (args.rows.batch - 1) * tensor.batch_stride +
                        (args.kernel->sizes.heads - 1) * tensor.head_stride +
                        (args.rows.length - 1) * tensor.row_stride;
    return (last + width) * ElementSize(args.type);
  }

  template <typename T>
  absl::Status Put(const T*& data, size_t size) {
    if (data == nullptr || size == 0) return absl::OkStatus();
    MNEMO_ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(size));
    MNEMO_RETURN_IF_ERROR(
        backend_.Upload(reinterpret_cast<const std::byte*>(data), buffer.data(), size));
    data = reinterpret_cast<const T*>(buffer.data());
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status PutBack(T*& data, size_t size) {
    if (data == nullptr) return absl::OkStatus();
    auto* const host = reinterpret_cast<std::byte*>(data);
    const T* device = data;
    MNEMO_RETURN_IF_ERROR(Put(device, size));
    data = const_cast<T*>(device);
    results_.push_back({reinterpret_cast<const std::byte*>(device), host, size});
    return absl::OkStatus();
  }

  Backend& backend_;
  std::vector<Buffer> buffers_;
  std::vector<Result> results_;
};

}  // namespace mnemosyne::kernels
