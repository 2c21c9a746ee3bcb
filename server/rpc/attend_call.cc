#include "server/rpc/attend_call.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/flt/flt_transfer.h"
#include "server/rpc/attention_codec.h"
#include "server/rpc/status_codec.h"

namespace mnemosyne::server {
namespace {

// Bytes of a part of an answer.
constexpr size_t kPartBytes = size_t{1} << 20;

constexpr int64_t kBatchMax = int64_t{1} << 20;

// Bytes of a block, far from where products of sizes overflow.
constexpr double kBlockBytesMax = 1e15;

absl::Status Violation(std::string_view message) {
  return WithReason(InvalidArgument("{}", message), "PROTOCOL_VIOLATION");
}

// The caller's mistakes carry a reason of their own.
absl::Status Explained(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status) || ErrorReason(status) != "INVALID_ARGUMENT") return status;
  return WithReason(status, "INVALID_ATTENTION");
}

// A tensor of a block; its bytes come in order.
class Tensor {
 public:
  // Not cleared: all of it has to come, or is written.
  void Allocate(size_t bytes) {
    bytes_ = bytes == 0 ? nullptr : std::make_unique_for_overwrite<std::byte[]>(bytes);
    size_ = bytes;
    filled_ = 0;
  }

  absl::Status Fill(const v1::AttentionPart& part) {
    const std::string& payload = part.payload();
    if (part.offset() != static_cast<int64_t>(filled_) || payload.size() > size_ - filled_) {
      return InvalidArgument(
          "wrong part: {} bytes of {} at {}, expected bytes from {} to at most {}", payload.size(),
          v1::AttentionTensor_Name(part.tensor()), part.offset(), filled_, size_);
    }
    if (!payload.empty()) std::memcpy(bytes_.get() + filled_, payload.data(), payload.size());
    filled_ += payload.size();
    return absl::OkStatus();
  }

  bool complete() const { return filled_ == size_; }
  size_t size() const { return size_; }
  std::byte* data() const { return bytes_.get(); }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(bytes_.get());
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  size_t size_ = 0, filled_ = 0;
};

// Each event is a callback of gRPC or a task of the executor, and causes the next one: there is one
// at a time, so no lock is needed.
class AttendReactor final : public grpc::ServerBidiReactor<v1::AttendRequest, v1::AttendResponse> {
 public:
  AttendReactor(StepExecutor& executor, MemoryBudget& budget, TenantQuotas& quotas,
                StreamOwner owner, absl::StatusOr<std::shared_ptr<CallWatch>> watch,
                ConnectionCall call)
      : executor_(executor),
        budget_(budget),
        quotas_(quotas),
        owner_(std::move(owner)),
        watch_(std::move(watch)),
        call_(std::move(call)) {
    if (watch_.ok()) {
      StartRead(&request_);
    } else {
      End(watch_.status());
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      return End(begun_ ? Violation("the stream ended within a block") : absl::OkStatus());
    }
    call_.Took(static_cast<int64_t>(request_.ByteSizeLong()));
    absl::Status status = (*watch_)->Progress();
    if (status.ok()) status = Take();
    if (!status.ok()) End(status);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(Unavailable("the client has gone"));
    call_.Answers(0);
    if (const absl::Status status = (*watch_)->Progress(); !status.ok()) return End(status);
    WriteNext();
  }

  void OnDone() override {
    if (watch_.ok()) (*watch_)->Close();
    delete this;
  }

 private:
  absl::Status Take() {
    switch (request_.part_case()) {
      case v1::AttendRequest::kOpen:
        return TakeOpen();
      case v1::AttendRequest::kBegin:
        return TakeBegin();
      case v1::AttendRequest::kData:
        return TakeData();
      case v1::AttendRequest::kEnd:
        return TakeEnd();
      case v1::AttendRequest::PART_NOT_SET:
        break;
    }
    return Violation("a message of the stream holds no part");
  }

  // Runs `task` on the executor's thread, and ends the stream if it fails.
  absl::Status Submit(std::function<absl::Status(StepExecutor::Device&)> task) {
    return executor_.Submit(owner_.caller.tenant,
                            [this, task = std::move(task)](StepExecutor::Device& device) {
                              const absl::Status status = task(device);
                              if (!status.ok()) End(status);
                            });
  }

  absl::Status TakeOpen() {
    if (kernel_.has_value()) return Violation("a second open came");
    MNEMO_ASSIGN_OR_RETURN(type_, TensorType(request_.open().kernel()));
    causal_ = request_.open().kernel().causal();
    keep_state_ = request_.open().keep_state();
    if (keep_state_ && !causal_) {
      return InvalidArgument(
          "a running state needs a causal kernel: set causal, or not keep_state");
    }
    return Submit([this](StepExecutor::Device&) -> absl::Status {
      MNEMO_ASSIGN_OR_RETURN(kernel_, FromProto(request_.open().kernel()));
      const auto bytes = static_cast<int64_t>(kernels::FltKernelBytes(*kernel_));
      MNEMO_ASSIGN_OR_RETURN(kernel_share_,
                             quotas_.Take(owner_.caller.tenant, {.memory_bytes = bytes}));
      MNEMO_ASSIGN_OR_RETURN(kernel_memory_, budget_.Reserve(bytes));
      v1::AttendOpened& opened = *response_.mutable_opened();
      opened.set_features(static_cast<int32_t>(kernel_->sizes.map.features));
      opened.set_waves(static_cast<int32_t>(kernel_->sizes.waves));
      opened.set_state_floats(static_cast<int64_t>(kernels::FltStateCount(kernel_->sizes)));
      Write();
      return absl::OkStatus();
    });
  }

  void Write() {
    call_.Answers(static_cast<int64_t>(response_.ByteSizeLong()));
    StartWrite(&response_);
  }

  absl::Status TakeBegin() {
    if (!kernel_.has_value()) return Violation("a block began before the stream was opened");
    if (begun_) return Violation("a block began within another one");
    begin_ = request_.begin();
    MNEMO_RETURN_IF_ERROR(CheckBegin());
    const kernels::FltSizes& sizes = kernel_->sizes;
    const auto batch = static_cast<size_t>(begin_.batch());
    const auto length = static_cast<size_t>(begin_.length());
    const size_t rows = batch * sizes.heads * length, element = ElementSize(type_);
    const size_t positions = (begin_.positions_per_batch() ? batch : 1) * length * sizes.positions;
    const std::array<size_t, kTensors> bytes = {0,
                                                rows * sizes.dim * element,
                                                rows * sizes.dim * element,
                                                rows * sizes.value_dim * element,
                                                positions * sizeof(float),
                                                begin_.has_mask() ? batch * length : 0,
                                                0,
                                                rows * sizes.value_dim * element};
    int64_t total = 0;
    for (const size_t size : bytes) total += static_cast<int64_t>(size);
    MNEMO_ASSIGN_OR_RETURN(block_share_,
                           quotas_.Take(owner_.caller.tenant, {.memory_bytes = total}));
    MNEMO_ASSIGN_OR_RETURN(block_memory_, budget_.Reserve(total));
    for (size_t i = 0; i < kTensors; ++i) {
      if (i != v1::ATTENTION_TENSOR_STATE) tensors_[i].Allocate(bytes[i]);
    }
    if (keep_state_) MNEMO_RETURN_IF_ERROR(PrepareState(batch));
    begun_ = true;
    StartRead(&request_);
    return absl::OkStatus();
  }

  absl::Status CheckBegin() const {
    const kernels::FltSizes& sizes = kernel_->sizes;
    if (begin_.batch() < 1 || begin_.batch() > kBatchMax) {
      return InvalidArgument("wrong size: batch is {}, expected 1 to {}", begin_.batch(),
                             kBatchMax);
    }
    if (begin_.length() < 1 || begin_.length() > static_cast<int64_t>(kernels::kFltLengthMax)) {
      return InvalidArgument("wrong size: length is {}, expected 1 to {}", begin_.length(),
                             kernels::kFltLengthMax);
    }
    const double bytes =
        static_cast<double>(begin_.batch()) * static_cast<double>(begin_.length()) *
        static_cast<double>(sizes.heads * (2 * sizes.dim + 2 * sizes.value_dim)) * 4;
    if (bytes > kBlockBytesMax) {
      return InvalidArgument("wrong size: the block has {} bytes; send it in smaller ones", bytes);
    }
    if (begin_.has_state() && !keep_state_) {
      return InvalidArgument("a state was announced on a stream without keep_state");
    }
    return absl::OkStatus();
  }

  // The running state stays from block to block, unless one is given or the batch is another.
  absl::Status PrepareState(size_t batch) {
    Tensor& state = tensors_[v1::ATTENTION_TENSOR_STATE];
    const size_t count = batch * kernel_->sizes.heads;
    const size_t bytes = count * kernels::FltStateCount(kernel_->sizes) * sizeof(float);
    if (state.size() == bytes && !begin_.has_state()) return absl::OkStatus();
    if (state.size() > 0 && state.size() != bytes && !begin_.has_state()) {
      return InvalidArgument("another batch: the running state is of {} batch entries, not of {}",
                             state.size() / (bytes / batch), batch);
    }
    state_memory_ = {};
    state_share_ = {};
    const auto size = static_cast<int64_t>(bytes);
    MNEMO_ASSIGN_OR_RETURN(state_share_,
                           quotas_.Take(owner_.caller.tenant, {.memory_bytes = size}));
    MNEMO_ASSIGN_OR_RETURN(state_memory_, budget_.Reserve(size));
    state.Allocate(bytes);
    if (begin_.has_state()) return absl::OkStatus();
    kernels::InitFltState(kernel_->sizes, count, state.as<float>());
    return absl::OkStatus();
  }

  absl::Status TakeData() {
    const v1::AttentionPart& part = request_.data();
    if (!begun_) return Violation("data came outside of a block");
    const bool known = v1::AttentionTensor_IsValid(part.tensor()) &&
                       part.tensor() != v1::ATTENTION_TENSOR_UNSPECIFIED &&
                       part.tensor() != v1::ATTENTION_TENSOR_OUTPUT;
    if (!known || (part.tensor() == v1::ATTENTION_TENSOR_STATE && !begin_.has_state())) {
      return InvalidArgument("wrong part: tensor {} is not announced",
                             static_cast<int>(part.tensor()));
    }
    MNEMO_RETURN_IF_ERROR(tensors_[static_cast<size_t>(part.tensor())].Fill(part));
    StartRead(&request_);
    return absl::OkStatus();
  }

  absl::Status TakeEnd() {
    if (!begun_) return Violation("the end of a block came before its begin");
    for (size_t i = v1::ATTENTION_TENSOR_QUERIES; i <= v1::ATTENTION_TENSOR_STATE; ++i) {
      const bool needed = i != v1::ATTENTION_TENSOR_STATE || begin_.has_state();
      if (!needed || tensors_[i].complete()) continue;
      return InvalidArgument("incomplete: {} is shorter than its {} bytes",
                             v1::AttentionTensor_Name(static_cast<v1::AttentionTensor>(i)),
                             tensors_[i].size());
    }
    return_state_ = request_.end().return_state() && keep_state_;
    return Submit([this](StepExecutor::Device& device) -> absl::Status {
      MNEMO_RETURN_IF_ERROR(Compute(device.backend()));
      MNEMO_RETURN_IF_ERROR((*watch_)->Progress());
      writing_ = v1::ATTENTION_TENSOR_OUTPUT;
      written_ = 0;
      WriteNext();
      return absl::OkStatus();
    });
  }

  absl::Status Compute(kernels::Backend& backend) {
    const kernels::FltSizes& sizes = kernel_->sizes;
    const auto length = static_cast<size_t>(begin_.length());
    std::vector<size_t> starts;
    for (const int64_t start : begin_.sequence_starts()) {
      starts.push_back(static_cast<size_t>(std::max<int64_t>(start, 0)));
    }
    kernels::FltAttentionArgs args;
    args.kernel = &*kernel_;
    args.rows.batch = static_cast<size_t>(begin_.batch());
    args.rows.length = length;
    args.rows.causal = causal_;
    args.rows.sequence_starts = starts;
    if (begin_.has_mask()) args.rows.mask = tensors_[v1::ATTENTION_TENSOR_MASK].as<uint8_t>();
    args.rows.positions = tensors_[v1::ATTENTION_TENSOR_POSITIONS].as<float>();
    args.rows.positions_per_batch = begin_.positions_per_batch();
    args.type = type_;
    const auto in = [&](v1::AttentionTensor tensor, size_t width) {
      return kernels::Dense(tensors_[static_cast<size_t>(tensor)].data(), sizes.heads, length,
                            width);
    };
    args.q = in(v1::ATTENTION_TENSOR_QUERIES, sizes.dim);
    args.k = in(v1::ATTENTION_TENSOR_KEYS, sizes.dim);
    args.v = in(v1::ATTENTION_TENSOR_VALUES, sizes.value_dim);
    args.out = kernels::DenseOut(tensors_[v1::ATTENTION_TENSOR_OUTPUT].data(), sizes.heads, length,
                                 sizes.value_dim);
    if (keep_state_) args.state = tensors_[v1::ATTENTION_TENSOR_STATE].as<float>();
    args.report = &report_;
    return kernels::FltAttentionOfHost(backend, args);
  }

  // Writes the next part of the answer, or reads on.
  void WriteNext() {
    response_.Clear();
    if (writing_ == v1::ATTENTION_TENSOR_UNSPECIFIED) return StartRead(&request_);
    const Tensor& tensor = tensors_[static_cast<size_t>(writing_)];
    if (written_ < tensor.size()) {
      const size_t size = std::min(kPartBytes, tensor.size() - written_);
      v1::AttentionPart& part = *response_.mutable_data();
      part.set_tensor(writing_);
      part.set_offset(static_cast<int64_t>(written_));
      part.set_payload(tensor.data() + written_, size);
      written_ += size;
      return Write();
    }
    if (writing_ == v1::ATTENTION_TENSOR_OUTPUT && return_state_) {
      writing_ = v1::ATTENTION_TENSOR_STATE;
      written_ = 0;
      return WriteNext();
    }
    writing_ = v1::ATTENTION_TENSOR_UNSPECIFIED;
    begun_ = false;
    for (size_t i = 0; i < kTensors; ++i) {
      if (i != v1::ATTENTION_TENSOR_STATE) tensors_[i].Allocate(0);
    }
    block_memory_ = {};
    block_share_ = {};
    response_.mutable_done()->set_rows(static_cast<int64_t>(report_.rows));
    response_.mutable_done()->set_clamped_rows(static_cast<int64_t>(report_.clamped_rows));
    Write();
  }

  void End(const absl::Status& status) {
    if (owner_.record) owner_.record("Attend", "", status);
    Finish(ToGrpcStatus(Explained(status)));
  }

  static constexpr size_t kTensors = v1::ATTENTION_TENSOR_OUTPUT + 1;

  StepExecutor& executor_;
  MemoryBudget& budget_;
  TenantQuotas& quotas_;
  const StreamOwner owner_;
  const absl::StatusOr<std::shared_ptr<CallWatch>> watch_;
  ConnectionCall call_;
  v1::AttendRequest request_;
  v1::AttendResponse response_;
  std::optional<kernels::FltKernel> kernel_;
  DataType type_ = DataType::kFloat32;
  bool causal_ = false, keep_state_ = false, begun_ = false, return_state_ = false;
  v1::AttendBegin begin_;
  TenantQuotas::Share kernel_share_, block_share_, state_share_;
  MemoryBudget::Reservation kernel_memory_, block_memory_, state_memory_;
  std::array<Tensor, kTensors> tensors_;  // By AttentionTensor.
  kernels::FltReport report_;
  v1::AttentionTensor writing_ = v1::ATTENTION_TENSOR_UNSPECIFIED;
  size_t written_ = 0;
};

}  // namespace

grpc::ServerBidiReactor<v1::AttendRequest, v1::AttendResponse>* StartAttend(
    StepExecutor& executor, MemoryBudget& budget, TenantQuotas& quotas, StreamOwner owner,
    absl::StatusOr<std::shared_ptr<CallWatch>> watch, ConnectionCall call) {
  return new AttendReactor(executor, budget, quotas, std::move(owner), std::move(watch),
                           std::move(call));
}

}  // namespace mnemosyne::server
