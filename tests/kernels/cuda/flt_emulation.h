// The programs of FLT attention on a GPU, run on the CPU: a block is one thread, and blocks run one
// after the other. Their arithmetic and their indices are those of a GPU.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_merge.h"
#include "kernels/cuda/flt_programs.h"
#include "kernels/cuda/flt_scratch.h"

namespace mnemosyne::kernels::cuda {

// A block of one thread.
struct OneThread {
  template <typename F>
  static void ForEach(size_t count, const F& f) {
    for (size_t i = 0; i < count; ++i) f(i);
  }
  static void Add(uint32_t* to, uint32_t n) { *to += n; }
};

class EmulatedFlt : public FltPrograms {
 public:
  absl::Status Clear(std::byte* data, size_t size) override {
    std::memset(data, 0, size);
    return absl::OkStatus();
  }

  absl::Status CheckPositions(const float* positions, size_t count, uint64_t* first_bad) override {
    for (size_t i = count; i-- > 0;) {
      if (!(std::abs(positions[i]) <= kFltPositionLimit)) *first_bad = count - i;
    }
    return absl::OkStatus();
  }

  absl::Status AddKeys(const FltCall& call) override {
    for (uint32_t p = 0; p < call.part_count; ++p) {
      const FltPart& part = call.parts[p];
      if (call.arrays.causal && part.is_last) continue;
      std::vector<float> scratch = Scratch(call);
      FltBlock<OneThread> block(call, part, scratch.data());
      block.AddKeys(call.sums + p * size_t{call.shape.SumCount()}, !call.arrays.causal);
    }
    return absl::OkStatus();
  }

  absl::Status Merge(const FltCall& call) override {
    for (uint32_t u = 0; u < call.unit_count; ++u) {
      for (uint32_t i = 0; i < call.shape.SumCount(); ++i) {
        const FltPart& part = call.parts[call.units[u].first_part];
        if (!MergeNumber(call, u, i)) {
          ++call.counts[part.batch * call.shape.heads + part.head].states;
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Answer(const FltCall& call) override {
    const size_t count = call.shape.SumCount();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      const FltPart& part = call.parts[p];
      std::vector<float> scratch = Scratch(call);
      FltBlock<OneThread> block(call, part, scratch.data());
      if (call.arrays.causal) {
        block.AnswerCausal(call.starts + p * count);
      } else {
        block.AnswerAll(call.starts + part.unit * count);
      }
    }
    return absl::OkStatus();
  }

  absl::Status WriteState(const FltCall& call) override {
    for (uint32_t u = 0; u < call.unit_count; ++u) {
      for (uint32_t i = 0; i < call.shape.SumCount() + call.shape.positions; ++i) {
        WriteStateNumber(call, u, i);
      }
    }
    return absl::OkStatus();
  }

 private:
  // Nothing may be read before it is written.
  static std::vector<float> Scratch(const FltCall& call) {
    return std::vector<float>(FltScratchLayout(call.shape, call.tile_rows).end, std::nanf(""));
  }
};

}  // namespace mnemosyne::kernels::cuda
