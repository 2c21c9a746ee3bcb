// Cuts the gradients of a step into messages.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/lease.h"
#include "mnemosyne/optimize_stream.h"
#include "mnemosyne/v1/optimize_stream.pb.h"
#include "proto/codec/chunk_grid.h"

namespace mnemosyne {

// Whether a step's tensors are those of the parameters: InvalidArgument if not.
absl::Status CheckTensors(std::span<const size_t> element_counts, Tensors gradients,
                          MutableTensors updates, const StepOptions& options);

// Which of `count` parameters a step leaves out; its options have been checked.
std::vector<bool> AbsentParameters(size_t count, const StepOptions& options);

// The StepBegin of a step.
v1::StepBegin MakeStepBegin(int64_t step, const StepOptions& options);

// Makes the messages of one step, one after the other: the first holds its begin, the last its end,
// and small cells share a message.
//
// Gradients in float32 are sent from where they lie, except small ones, which are copied beside
// their headers. Others are encoded into a buffer of the size of a message.
//
// Lifetime: the gradients and the lease outlive the messages.
class StepWriter {
 public:
  StepWriter(const codec::ChunkGrid& grid, DataType encoding, bool checksums, int64_t step,
             const StepOptions& options, Tensors gradients, Lease& lease);

  // Whether all messages have been made.
  bool done() const { return done_; }

  // Makes the next message.
  grpc::ByteBuffer Next();

 private:
  bool AtEnd() const { return parameter_ == grid_.parameter_count(); }
  void SkipAbsent();
  void AppendCell();
  void CloseInlineSlice();

  const codec::ChunkGrid& grid_;
  const DataType encoding_;
  const bool checksums_;
  const Tensors gradients_;
  Lease& lease_;
  const std::vector<bool> absent_;  // [parameters]
  std::string end_;
  bool done_ = false;

  // The next cell.
  size_t parameter_ = 0;
  size_t cell_ = 0;

  // The message in the making.
  std::string inline_;  // Headers and small tensors that are not in `slices_` yet.
  std::vector<grpc::Slice> slices_;
  size_t size_ = 0;
};

}  // namespace mnemosyne
