#include "client/cpp/step_writer.h"

#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "proto/codec/frame_writer.h"

namespace mnemosyne {
namespace {

// Fields of OptimizeRequest.
constexpr uint32_t kBegin = 2;
constexpr uint32_t kEnd = 4;

// A message takes cells until its size would pass this; one cell alone may be larger.
constexpr size_t kMessageBytesTarget = size_t{1} << 20;

// Room for a chunk's header in that sum.
constexpr size_t kChunkHeaderBytesMax = 64;

// Below this a copy costs less than a slice of its own.
constexpr size_t kLentBytesMin = 8192;

}  // namespace

absl::Status CheckTensors(std::span<const size_t> element_counts, Tensors gradients,
                          MutableTensors updates, const StepOptions& options) {
  const size_t count = element_counts.size();
  if (gradients.size() != count || updates.size() != count) {
    return InvalidArgument("wrong number of tensors: {} gradients and {} targets, expected {}",
                           gradients.size(), updates.size(), count);
  }
  for (const int32_t parameter : options.absent_parameters) {
    if (parameter < 0 || static_cast<size_t>(parameter) >= count) {
      return InvalidArgument("absent parameter {} does not exist: the session has {}", parameter,
                             count);
    }
  }
  const std::vector<bool> absent = AbsentParameters(count, options);
  for (size_t i = 0; i < count; ++i) {
    if (absent[i]) continue;
    if (gradients[i].size() != element_counts[i] || updates[i].size() != element_counts[i]) {
      return InvalidArgument(
          "wrong size of parameter {}: gradient has {} and target {} elements, expected {}", i,
          gradients[i].size(), updates[i].size(), element_counts[i]);
    }
  }
  return absl::OkStatus();
}

std::vector<bool> AbsentParameters(size_t count, const StepOptions& options) {
  std::vector<bool> absent(count);
  for (const int32_t parameter : options.absent_parameters) {
    absent[static_cast<size_t>(parameter)] = true;
  }
  return absent;
}

v1::StepBegin MakeStepBegin(int64_t step, const StepOptions& options) {
  v1::StepBegin begin;
  begin.set_step(step);
  if (options.loss) begin.set_loss(*options.loss);
  begin.mutable_learning_rate_factors()->Assign(options.learning_rate_factors.begin(),
                                                options.learning_rate_factors.end());
  begin.mutable_learning_rates()->Assign(options.learning_rates.begin(),
                                         options.learning_rates.end());
  begin.mutable_absent_parameters()->Assign(options.absent_parameters.begin(),
                                            options.absent_parameters.end());
  begin.mutable_parameter_rms()->Assign(options.parameter_rms.begin(), options.parameter_rms.end());
  return begin;
}

StepWriter::StepWriter(const codec::ChunkGrid& grid, DataType encoding, bool checksums,
                       int64_t step, const StepOptions& options, Tensors gradients, Lease& lease)
    : grid_(grid),
      encoding_(encoding),
      checksums_(checksums),
      gradients_(gradients),
      lease_(lease),
      absent_(AbsentParameters(grid.parameter_count(), options)) {
  v1::StepEnd end;
  end.set_step(step);
  end_ = end.SerializeAsString();
  codec::AppendPart(kBegin, MakeStepBegin(step, options).SerializeAsString(), inline_);
  SkipAbsent();
}

void StepWriter::SkipAbsent() {
  while (!AtEnd() && (absent_[parameter_] || cell_ == grid_.CellsOf(parameter_))) {
    ++parameter_;
    cell_ = 0;
  }
}

grpc::ByteBuffer StepWriter::Next() {
  size_ = inline_.size();
  while (!AtEnd()) {
    const size_t bytes = grid_.At(parameter_, cell_).count * ElementSize(encoding_);
    const bool empty = slices_.empty() && inline_.empty();
    if (!empty && size_ + bytes + kChunkHeaderBytesMax > kMessageBytesTarget && size_ > 0) break;
    AppendCell();
    ++cell_;
    SkipAbsent();
  }
  if (AtEnd()) {
    codec::AppendPart(kEnd, end_, inline_);
    done_ = true;
  }
  CloseInlineSlice();
  grpc::ByteBuffer message(slices_.data(), slices_.size());
  slices_.clear();
  return message;
}

void StepWriter::AppendCell() {
  const auto cell = grid_.At(parameter_, cell_);
  const auto elements = gradients_[parameter_].subspan(cell.start, cell.count);
  const size_t bytes = cell.count * ElementSize(encoding_);
  const bool in_place = encoding_ == DataType::kFloat32;

  std::vector<std::byte> encoded;
  if (!in_place) {
    encoded.resize(bytes);
    EncodeElements(encoding_, elements.data(), encoded.data(), cell.count);
  }
  const std::span<const std::byte> payload =
      in_place ? std::as_bytes(elements) : std::span<const std::byte>(encoded);

  codec::ChunkHeader header;
  header.parameter = static_cast<int32_t>(parameter_);
  header.cell = static_cast<int32_t>(cell_);
  if (checksums_) header.crc32c = Crc32c(payload);
  codec::AppendChunkHeader(header, bytes, inline_);

  size_ += bytes + kChunkHeaderBytesMax;
  if (in_place && bytes >= kLentBytesMin) {
    CloseInlineSlice();
    slices_.push_back(lease_.Lend(payload));
  } else {
    inline_.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  }
}

void StepWriter::CloseInlineSlice() {
  if (inline_.empty()) return;
  slices_.emplace_back(inline_);
  inline_.clear();
}

}  // namespace mnemosyne
