#include "tests/kernels/cuda/flt_emulation.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/flt_back_block.h"
#include "kernels/cuda/flt_back_merge.h"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_merge.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/flt_emulation_parts.h"
#include "tests/kernels/cuda/one_thread.h"

namespace mnemosyne::kernels::cuda {
namespace emulated {
namespace {

// Nothing may be read before it is written.
std::vector<float> Scratch(const FltCall& call) {
  return std::vector<float>(FltScratchLayout(call.shape, call.tile_rows).end, std::nanf(""));
}

}  // namespace

void AddKeysByBlocks(const FltCall& call) {
  const bool causal = call.arrays.causal;
  for (uint32_t p = 0; p < call.part_count; ++p) {
    if (causal && call.parts[p].is_last) continue;
    std::vector<float> scratch = Scratch(call);
    FltBlock<OneThread, HostLanes>(call, call.parts[p], scratch.data())
        .AddKeys(call.sums + p * size_t{call.shape.SumCount()}, !causal);
  }
}

void AnswerByBlocks(const FltCall& call) {
  const size_t count = call.shape.SumCount();
  for (uint32_t p = 0; p < call.part_count; ++p) {
    std::vector<float> scratch = Scratch(call);
    FltBlock<OneThread, HostLanes> block(call, call.parts[p], scratch.data());
    if (call.arrays.causal) {
      block.AnswerCausal(call.starts + p * count);
    } else {
      block.AnswerAll(call.starts + call.parts[p].unit * count);
    }
  }
}

}  // namespace emulated

namespace {

uint32_t GradientCount(const FltBackCall& call) {
  return FltGradientPlaces(call.forward.shape, call.of_waves, call.of_projection).end;
}

template <typename F>
void ForEachBackBlock(const FltBackCall& call, const F& f) {
  const FltCall& forward = call.forward;
  const FltBackScratchLayout at(forward.shape, call.tile_rows, forward.arrays.causal);
  for (uint32_t p = 0; p < forward.part_count; ++p) {
    // Nothing may be read before it is written.
    std::vector<float> scratch(at.end, std::nanf(""));
    FltBackBlock<OneThread, HostLanes> block(call, forward.parts[p], scratch.data(),
                                             call.gradients + p * size_t{GradientCount(call)});
    f(block, p, forward.parts[p].unit);
  }
}

}  // namespace

absl::Status EmulatedFlt::Clear(std::byte* data, size_t size) {
  std::memset(data, 0, size);
  return absl::OkStatus();
}

absl::Status EmulatedFlt::CheckPositions(const float* positions, size_t count,
                                         uint64_t* first_bad) {
  for (size_t i = count; i-- > 0;) {
    if (!(std::abs(positions[i]) <= kFltPositionLimit)) *first_bad = count - i;
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::Prepare(const FltCall& call) {
  emulated::PrepareQuickly(call);
  return absl::OkStatus();
}

absl::StatusOr<bool> EmulatedFlt::Wait() { return std::exchange(flag_, 0U) != 0; }

absl::Status EmulatedFlt::AddKeys(const FltCall& call) {
  if (kind_ == FltProgramKind::kGroups && emulated::AddKeysInGroups(call, parts_)) {
    return absl::OkStatus();
  }
  if (emulated::AddKeysQuickly(call, parts_)) return absl::OkStatus();
  ++careful_calls_;
  if (kind_ == FltProgramKind::kBlocks || !emulated::AddKeysByTeams(call, parts_)) {
    emulated::AddKeysByBlocks(call);
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::Merge(const FltCall& call) {
  for (uint32_t u = 0; u < call.unit_count; ++u) {
    for (uint32_t i = 0; i < call.shape.SumCount(); ++i) {
      const FltPart& part = call.parts[call.units[u].first_part];
      if (MergeNumber(call, u, i)) continue;
      if (call.quick) {
        flag_ = 1;
      } else {
        ++call.counts[part.batch * call.shape.heads + part.head].states;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::Answer(const FltCall& call) {
  if (kind_ == FltProgramKind::kGroups && emulated::AnswerInGroups(call, parts_)) {
    return absl::OkStatus();
  }
  if (emulated::AnswerQuickly(call, parts_)) return absl::OkStatus();
  if (kind_ == FltProgramKind::kBlocks || !emulated::AnswerByTeams(call, parts_)) {
    emulated::AnswerByBlocks(call);
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::WriteState(const FltCall& call) {
  for (uint32_t u = 0; u < call.unit_count; ++u) {
    for (uint32_t i = 0; i < call.shape.SumCount() + call.shape.positions; ++i) {
      WriteStateNumber(call, u, i);
    }
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::AddQueries(const FltBackCall& call) {
  emulated::AddQueriesQuickly(call, parts_);
  return absl::OkStatus();
}

absl::Status EmulatedFlt::DifferentiateQueries(const FltBackCall& call) {
  if (call.quick) {
    emulated::DifferentiateQueriesQuickly(call, parts_);
    return absl::OkStatus();
  }
  ++careful_back_calls_;
  const bool causal = call.forward.arrays.causal;
  ForEachBackBlock(call, [&](auto& block, uint32_t p, uint32_t unit) {
    block.RunQueries(call.forward.starts + (causal ? p : unit) * call.forward.shape.SumCount(),
                     call.sums + p * call.QuerySumCount());
  });
  return absl::OkStatus();
}

absl::Status EmulatedFlt::MergeQueries(const FltBackCall& call) {
  for (uint32_t u = 0; u < call.forward.unit_count; ++u) {
    for (uint32_t i = 0; i < call.QuerySumCount(); ++i) MergeQueryNumber(call, u, i);
  }
  return absl::OkStatus();
}

absl::Status EmulatedFlt::DifferentiateKeys(const FltBackCall& call) {
  if (call.quick) {
    emulated::DifferentiateKeysQuickly(call, parts_);
    return absl::OkStatus();
  }
  const bool causal = call.forward.arrays.causal;
  ForEachBackBlock(call, [&](auto& block, uint32_t p, uint32_t unit) {
    block.RunKeys(call.starts + (causal ? p : unit) * call.QuerySumCount());
  });
  return absl::OkStatus();
}

absl::Status EmulatedFlt::AddTotals(const FltBackCall& call) {
  const uint32_t count = GradientCount(call);
  for (uint32_t h = 0; h < call.forward.shape.heads; ++h) {
    for (uint32_t i = 0; i < count; ++i) AddToTotal(call, count, h, i);
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cuda
