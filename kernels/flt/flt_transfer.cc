#include "kernels/flt/flt_transfer.h"

#include <cstddef>
#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace mnemosyne::kernels {
namespace {

// Copies of a call's arrays on a device, and back again.
class Transfer {
 public:
  explicit Transfer(Backend& backend) : backend_(backend) {}

  // The copy of `size` bytes at `data`, if there are any.
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

  // The same of what the call writes. It is copied there as well: strides may leave gaps.
  template <typename T>
  absl::Status PutBack(T*& data, size_t size) {
    if (data == nullptr || size == 0) return absl::OkStatus();
    auto* const host = reinterpret_cast<std::byte*>(data);
    const T* device = data;
    MNEMO_RETURN_IF_ERROR(Put(device, size));
    data = const_cast<T*>(device);
    results_.push_back({buffers_.back().data(), host, size});
    return absl::OkStatus();
  }

  absl::Status Fetch() {
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

  Backend& backend_;
  std::vector<Buffer> buffers_;
  std::vector<Result> results_;
};

// Bytes from the first to behind the last row of a tensor.
template <typename Args, typename Tensor>
size_t BytesOf(const Args& args, const Tensor& tensor, size_t width) {
  const size_t last = (args.rows.batch - 1) * tensor.batch_stride +
                      (args.kernel->sizes.heads - 1) * tensor.head_stride +
                      (args.rows.length - 1) * tensor.row_stride;
  return (last + width) * ElementSize(args.type);
}

// What both passes read.
template <typename Args>
absl::Status PutInputs(const Args& args, Transfer& transfer, Args& there) {
  const FltSizes& sizes = args.kernel->sizes;
  const FltRows& rows = args.rows;
  const size_t entries = rows.positions_per_batch ? rows.batch : 1;
  MNEMO_RETURN_IF_ERROR(transfer.Put(there.q.data, BytesOf(args, args.q, sizes.dim)));
  MNEMO_RETURN_IF_ERROR(transfer.Put(there.k.data, BytesOf(args, args.k, sizes.dim)));
  MNEMO_RETURN_IF_ERROR(transfer.Put(there.v.data, BytesOf(args, args.v, sizes.value_dim)));
  MNEMO_RETURN_IF_ERROR(transfer.Put(there.rows.mask, rows.batch * rows.length));
  return transfer.Put(there.rows.positions,
                      entries * rows.length * sizes.positions * sizeof(float));
}

}  // namespace

absl::Status FltAttentionOfHost(Backend& backend, const FltAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (backend.host_accessible()) return backend.FltAttention(args);
  const FltSizes& sizes = args.kernel->sizes;
  const FltRows& rows = args.rows;
  const size_t heads = rows.batch * sizes.heads;
  FltAttentionArgs there = args;
  Transfer transfer(backend);
  MNEMO_RETURN_IF_ERROR(PutInputs(args, transfer, there));
  MNEMO_RETURN_IF_ERROR(transfer.PutBack(there.out.data, BytesOf(args, args.out, sizes.value_dim)));
  MNEMO_RETURN_IF_ERROR(
      transfer.PutBack(there.state, heads * FltStateCount(sizes) * sizeof(float)));
  MNEMO_RETURN_IF_ERROR(
      transfer.PutBack(there.normalizers, heads * rows.length * 2 * sizeof(float)));
  MNEMO_RETURN_IF_ERROR(backend.FltAttention(there));
  return transfer.Fetch();
}

absl::Status FltAttentionBackwardOfHost(Backend& backend, const FltBackwardArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (backend.host_accessible()) return backend.FltAttentionBackward(args);
  const FltSizes& sizes = args.kernel->sizes;
  FltBackwardArgs there = args;
  Transfer transfer(backend);
  MNEMO_RETURN_IF_ERROR(PutInputs(args, transfer, there));
  const auto put = [&](const void*& data, const TensorIn& tensor) {
    return transfer.Put(data, BytesOf(args, tensor, sizes.value_dim));
  };
  MNEMO_RETURN_IF_ERROR(put(there.out.data, args.out));
  MNEMO_RETURN_IF_ERROR(put(there.out_gradient.data, args.out_gradient));
  MNEMO_RETURN_IF_ERROR(transfer.Put(
      there.normalizers, args.rows.batch * sizes.heads * args.rows.length * 2 * sizeof(float)));
  const auto put_back = [&](void*& data, const TensorOut& tensor, size_t width) {
    return transfer.PutBack(data, BytesOf(args, tensor, width));
  };
  MNEMO_RETURN_IF_ERROR(put_back(there.q_gradient.data, args.q_gradient, sizes.dim));
  MNEMO_RETURN_IF_ERROR(put_back(there.k_gradient.data, args.k_gradient, sizes.dim));
  MNEMO_RETURN_IF_ERROR(put_back(there.v_gradient.data, args.v_gradient, sizes.value_dim));
  MNEMO_RETURN_IF_ERROR(backend.FltAttentionBackward(there));
  return transfer.Fetch();
}

}  // namespace mnemosyne::kernels
