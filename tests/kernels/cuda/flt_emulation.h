// The programs of FLT attention on a GPU, run on the CPU: a block is one thread, and blocks run one
// after the other. Their arithmetic and their indices are those of a GPU.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/flt_back_block.h"
#include "kernels/cuda/flt_back_merge.h"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_group_causal.h"
#include "kernels/cuda/flt_group_keys.h"
#include "kernels/cuda/flt_group_queries.h"
#include "kernels/cuda/flt_merge.h"
#include "kernels/cuda/flt_programs.h"
#include "kernels/cuda/flt_quick_back_causal.h"
#include "kernels/cuda/flt_quick_causal.h"
#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_numbers.h"
#include "kernels/cuda/flt_quick_prepare.h"
#include "kernels/cuda/flt_quick_queries.h"
#include "kernels/cuda/flt_quick_reader.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/flt_team_part.h"
#include "kernels/cuda/host_lanes.h"

namespace mnemosyne::kernels::cuda {

// A block of one thread, which stands for all of them in turn.
struct OneThread {
  static inline bool backwards = false;  // Last to first.

  template <typename F>
  static void ForEach(size_t count, const F& f) {
    for (size_t i = 0; i < count; ++i) f(backwards ? count - 1 - i : i);
  }
  template <typename F>
  static void ForRows(uint32_t rows, uint32_t columns, const F& f) {
    ForEach(size_t{rows} * columns, [&](size_t i) {
      f(static_cast<uint32_t>(i / columns), static_cast<uint32_t>(i % columns));
    });
  }
  static uint32_t Warps() { return 8; }
  template <typename F>
  static void ForEachWarp(uint32_t count, const F& f) {
    Spread(count, f);
  }
  template <typename F>
  static void Spread(uint32_t count, const F& f) {
    ForEach(count, [&](size_t i) { f(static_cast<uint32_t>(i)); });
  }
  static void Copy16(uint32_t* to, const void* from, uint32_t size) {
    std::memset(to, 0, 16);
    if (size > 0) std::memcpy(to, from, size);
  }
  static void Copy4(uint32_t* to, const void* from) { std::memcpy(to, from, 4); }
  static void WaitForCopies() {}
  static void WaitForOthers() {}
  static void Raise(uint32_t* flag) { *flag = 1; }
  static void Add(uint32_t* to, uint32_t n) { *to += n; }
};

// A team, whose warps do each step one after the other.
template <class Sizes>
class EmulatedTeam {
 public:
  using Warp = FltTeamWarp<OneThread, HostLanes, Sizes>;

  explicit EmulatedTeam(const FltTeamSpace<Sizes>& space) {
    for (uint32_t w = 0; w < Sizes::kWarps; ++w) warps_.emplace_back(space, w);
  }

  template <typename F>
  void Each(const F& f) {
    for (size_t w = 0; w < warps_.size(); ++w) {
      f(warps_[OneThread::backwards ? warps_.size() - 1 - w : w]);
    }
  }
  Warp& warp() { return warps_.back(); }

 private:
  std::vector<Warp> warps_;
};

// The same of the quick program.
template <class Warp>
class EmulatedQuickTeam {
 public:
  template <class Space>
  EmulatedQuickTeam(const Space& space, uint32_t count) {
    for (uint32_t w = 0; w < count; ++w) warps_.emplace_back(space, w);
  }

  template <typename F>
  void Each(const F& f) {
    for (size_t w = 0; w < warps_.size(); ++w) {
      f(warps_[OneThread::backwards ? warps_.size() - 1 - w : w]);
    }
  }
  template <typename F>
  void Run(const F& f) {
    Each(f);
  }

 private:
  std::vector<Warp> warps_;
};

// Which programs run: the one for all sizes; teams where they fit; the quick program where it fits,
// and teams elsewhere, as on a GPU; or groups before all others, as on a GPU that has them.
enum class FltProgramKind { kBlocks, kTeams, kQuick, kGroups };

class EmulatedFlt : public FltPrograms {
 public:
  explicit EmulatedFlt(FltProgramKind kind) : kind_(kind) {}

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

  absl::Status Prepare(const FltCall& call) override {
    WithFltQuick(call, [&](auto sizes) {
      using Preparation = FltPreparation<decltype(sizes)>;
      for (uint32_t side = 0; side < 2 * call.shape.heads; ++side) {
        const Preparation preparation(call, side / 2, side % 2 == 0);
        for (uint32_t i = 0; i < Preparation::kCount; ++i) preparation.Write(i);
      }
    });
    return absl::OkStatus();
  }
  absl::StatusOr<uint32_t*> Flag() override { return IsQuick() ? &flag_ : nullptr; }
  absl::StatusOr<bool> Wait() override { return std::exchange(flag_, 0U) != 0; }

  absl::Status AddKeys(const FltCall& call) override {
    if (kind_ == FltProgramKind::kGroups && WithFltGroup(call, [&](auto sizes) {
          using Sizes = decltype(sizes);
          using Warp = FltGroupKeys<OneThread, HostLanes, Sizes>;
          constexpr FltQuickLayout kAt = FltQuickLayout::OfGroupKeys<Sizes>();
          for (uint32_t p = 0; p < call.part_count; ++p) {
            if (call.arrays.causal && call.parts[p].is_last) continue;
            RunQuickly<Warp, Sizes::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
              AddKeysInGroup<OneThread, HostLanes, Sizes>(
                  space, team, call.sums + p * size_t{call.shape.SumCount()});
            });
            ++group_parts_;
          }
        })) {
      return absl::OkStatus();
    }
    if (WithFltQuick(call, [&](auto sizes) { AddKeysOf<decltype(sizes)>(call); })) {
      return absl::OkStatus();
    }
    ++careful_calls_;
    for (uint32_t p = 0; p < call.part_count; ++p) {
      const FltPart& part = call.parts[p];
      if (call.arrays.causal && part.is_last) continue;
      float* const sums = call.sums + p * size_t{call.shape.SumCount()};
      const bool count = !call.arrays.causal;
      const bool done = ByTeam<FltTask::kAddKeys>(call, part, [&](const auto& space, auto& team) {
        AddKeysByTeam<OneThread>(space, team, sums, count);
      });
      if (done) continue;
      std::vector<float> scratch = Scratch(call);
      FltBlock<OneThread, HostLanes>(call, part, scratch.data()).AddKeys(sums, count);
    }
    return absl::OkStatus();
  }

  absl::Status Merge(const FltCall& call) override {
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

  absl::Status Answer(const FltCall& call) override {
    if (kind_ == FltProgramKind::kGroups && AnswerInGroups(call)) return absl::OkStatus();
    const bool quickly =
        call.arrays.causal
            ? WithFltQuick(call, [&](auto sizes) { AnswerOf<decltype(sizes)>(call); })
            : WithFltQuickAnswer(call, [&](auto sizes) { AnswerOf<decltype(sizes)>(call); });
    if (quickly) return absl::OkStatus();
    const size_t count = call.shape.SumCount();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      const FltPart& part = call.parts[p];
      const bool causal = call.arrays.causal;
      float* const sums = call.starts + (causal ? p : part.unit) * count;
      const bool done =
          causal
              ? ByTeam<FltTask::kAnswerCausal>(call, part,
                                               [&](const auto& space, auto& team) {
                                                 AnswerCausalByTeam<OneThread>(space, team, sums);
                                               })
              : ByTeam<FltTask::kAnswerAll>(call, part, [&](const auto& space, auto& team) {
                  AnswerAllByTeam<OneThread>(space, team, sums);
                });
      if (done) continue;
      std::vector<float> scratch = Scratch(call);
      FltBlock<OneThread, HostLanes> block(call, part, scratch.data());
      if (causal) {
        block.AnswerCausal(sums);
      } else {
        block.AnswerAll(sums);
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

  absl::Status AddQueries(const FltBackCall& call) override {
    WithFltQuickBack(call.forward, [&](auto type) {
      using Sizes = FltQuickBackSizes<decltype(type)::value, 32>;
      using Numbers = FltQuickNumbers<OneThread, HostLanes, Sizes>;
      for (uint32_t p = 0; p < call.forward.part_count; ++p) {
        const FltPart& part = call.forward.parts[p];
        for (uint32_t at = 0; at < part.count; at += Numbers::kRows) {
          Numbers(call, part).Write(part.first + at, part.count - at);
        }
      }
      const FltSide side = FltSide::OfKeys(call);
      constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
      using Warp = FltQuickKeys<OneThread, HostLanes, Sizes>;
      for (uint32_t p = 0; p < call.forward.part_count; ++p) {
        RunQuickly<Warp, Sizes::kWarps>(side.call, p, kAt, [&](const auto& space, auto& team) {
          AddRowsQuickly<OneThread, Sizes>(side, space, team,
                                           side.sums + p * size_t{side.sum_count});
        });
      }
    });
    return absl::OkStatus();
  }
  absl::Status DifferentiateQueries(const FltBackCall& call) override {
    if (call.quick) return DifferentiateQuickly(FltSide::OfQueries(call));
    ++careful_back_calls_;
    const bool causal = call.forward.arrays.causal;
    ForEachPart(call, [&](FltBackBlock<OneThread, HostLanes>& block, uint32_t p, uint32_t unit) {
      block.RunQueries(call.forward.starts + (causal ? p : unit) * call.forward.shape.SumCount(),
                       call.sums + p * call.QuerySumCount());
    });
    return absl::OkStatus();
  }
  absl::Status MergeQueries(const FltBackCall& call) override {
    for (uint32_t u = 0; u < call.forward.unit_count; ++u) {
      for (uint32_t i = 0; i < call.QuerySumCount(); ++i) MergeQueryNumber(call, u, i);
    }
    return absl::OkStatus();
  }
  absl::Status DifferentiateKeys(const FltBackCall& call) override {
    if (call.quick) return DifferentiateQuickly(FltSide::OfKeys(call));
    const bool causal = call.forward.arrays.causal;
    ForEachPart(call, [&](FltBackBlock<OneThread, HostLanes>& block, uint32_t p, uint32_t unit) {
      block.RunKeys(call.starts + (causal ? p : unit) * call.QuerySumCount());
    });
    return absl::OkStatus();
  }
  absl::Status AddTotals(const FltBackCall& call) override {
    const uint32_t count = GradientCount(call);
    for (uint32_t h = 0; h < call.forward.shape.heads; ++h) {
      for (uint32_t i = 0; i < count; ++i) AddToTotal(call, count, h, i);
    }
    return absl::OkStatus();
  }

  // Parts that teams have taken, and those that the quick program has.
  size_t team_parts() const { return team_parts_; }
  size_t quick_parts() const { return quick_parts_; }
  size_t group_parts() const { return group_parts_; }
  // Launches of other programs than the quick one.
  size_t careful_calls() const { return careful_calls_; }
  size_t quick_back_parts() const { return quick_back_parts_; }
  size_t careful_back_calls() const { return careful_back_calls_; }

 private:
  bool IsQuick() const {
    return kind_ == FltProgramKind::kQuick || kind_ == FltProgramKind::kGroups;
  }
  static uint32_t GradientCount(const FltBackCall& call) {
    return FltGradientPlaces(call.forward.shape, call.of_waves, call.of_projection).end;
  }
  template <typename F>
  static void ForEachPart(const FltBackCall& call, const F& f) {
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

  template <class Sizes>
  void AddKeysOf(const FltCall& call) {
    using Warp = FltQuickKeys<OneThread, HostLanes, Sizes>;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      if (call.arrays.causal && call.parts[p].is_last) continue;
      RunQuickly<Warp, Sizes::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
        AddKeysQuickly<OneThread, Sizes>(space, team,
                                         call.sums + p * size_t{call.shape.SumCount()});
      });
    }
  }
  bool AnswerInGroups(const FltCall& call) {
    const auto run = [&](auto warp, const FltQuickLayout& at, const auto& answer) {
      using Warp = typename decltype(warp)::type;
      for (uint32_t p = 0; p < call.part_count; ++p) {
        RunQuickly<Warp, 4>(call, p, at,
                            [&](const auto& space, auto& team) { answer(space, team, p); });
        ++group_parts_;
      }
    };
    const size_t count = call.shape.SumCount();
    if (call.arrays.causal) {
      return WithFltGroup(call, [&](auto) {
        using Sizes = FltGroupSizes<FltType::kBFloat16>;  // The only ones.
        run(std::type_identity<FltGroupCausal<OneThread, HostLanes, Sizes>>(),
            FltQuickLayout::OfGroupCausal<Sizes>(), [&](const auto& space, auto& team, uint32_t p) {
              AnswerCausalInGroup<OneThread, HostLanes, Sizes>(space, team,
                                                               call.starts + p * count);
            });
      });
    }
    return WithFltGroup(call, [&](auto sizes) {
      using Sizes = decltype(sizes);
      run(std::type_identity<FltGroupQueries<OneThread, HostLanes, Sizes>>(),
          FltQuickLayout::OfGroupQueries<Sizes>(), [&](const auto& space, auto& team, uint32_t p) {
            AnswerAllInGroup<OneThread, HostLanes, Sizes>(space, team,
                                                          call.starts + call.parts[p].unit * count);
          });
    });
  }
  template <class Sizes>
  void AnswerOf(const FltCall& call) {
    if (call.arrays.causal) {
      if constexpr (Sizes::kFeatures == 64) AnswerCausalOf<Sizes>(call);
      return;
    }
    using Warp = FltQuickQueries<OneThread, HostLanes, Sizes>;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfQueries<Sizes>();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      RunQuickly<Warp, Sizes::kAnswerWarps>(call, p, kAt, [&](const auto& space, auto& team) {
        AnswerAllQuickly<OneThread, Sizes>(
            space, team, call.starts + call.parts[p].unit * size_t{call.shape.SumCount()});
      });
    }
  }
  template <class Sizes>
  void AnswerCausalOf(const FltCall& call) {
    using Causal = FltQuickSizes<Sizes::kType, 64, 64>;
    using Warp = FltQuickCausal<OneThread, HostLanes, Causal>;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfCausal<Causal>();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      RunQuickly<Warp, Causal::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
        AnswerCausalQuickly<OneThread, Causal>(space, team,
                                               call.starts + p * size_t{call.shape.SumCount()});
      });
    }
  }
  absl::Status DifferentiateQuickly(const FltSide& side) {
    WithFltQuickBack(side.call, [&](auto type) {
      constexpr FltType kType = decltype(type)::value;
      if (side.call.arrays.causal) {
        using Sizes = FltQuickBackSizes<kType, 64>;
        constexpr FltQuickLayout kAt = FltQuickLayout::OfBackCausal<Sizes>();
        using Warp = FltQuickBackCausal<OneThread, HostLanes, Sizes>;
        RunReaders<Warp, Sizes::kWarps>(side, kAt, [&](const auto& space, auto& team, uint32_t p) {
          DifferentiateCausalQuickly<OneThread, Sizes>(
              space, team, side.starts + p * size_t{side.sum_count},
              side.gradients + p * size_t{side.gradient_count});
        });
      } else {
        using Sizes = FltQuickBackSizes<kType, 32>;
        constexpr FltQuickLayout kAt = FltQuickLayout::OfReaders<Sizes>();
        using Warp = FltQuickReader<OneThread, HostLanes, Sizes>;
        RunReaders<Warp, Sizes::kReaderWarps>(
            side, kAt, [&](const auto& space, auto& team, uint32_t p) {
              DifferentiateAllQuickly<OneThread, Sizes>(
                  space, team, side.starts + side.call.parts[p].unit * size_t{side.sum_count},
                  side.gradients + p * size_t{side.gradient_count});
            });
      }
    });
    return absl::OkStatus();
  }
  template <class Warp, uint32_t kWarps, typename Run>
  void RunReaders(const FltSide& side, const FltQuickLayout& at, const Run& run) {
    for (uint32_t p = 0; p < side.call.part_count; ++p) {
      std::vector<Four> memory(at.end / 4);
      const FltSideSpace space = {{side.call, side.call.parts[p], at, &memory[0].x[0]}, side};
      EmulatedQuickTeam<Warp> team(space, kWarps);
      run(space, team, p);
      ++quick_back_parts_;
    }
  }

  // Nothing may be read before it is written: NaN in all halves. Copies of 16 bytes are aligned.
  struct alignas(16) Four {
    uint32_t x[4] = {0x7FFF7FFFU, 0x7FFF7FFFU, 0x7FFF7FFFU, 0x7FFF7FFFU};
  };
  template <class Warp, uint32_t kWarps, typename Run>
  void RunQuickly(const FltCall& call, uint32_t p, const FltQuickLayout& at, const Run& run) {
    std::vector<Four> memory(at.end / 4);
    const FltQuickSpace space = {call, call.parts[p], at, &memory[0].x[0]};
    EmulatedQuickTeam<Warp> team(space, kWarps);
    run(space, team);
    ++quick_parts_;
  }

  template <FltTask kTask, typename Run>
  bool ByTeam(const FltCall& call, const FltPart& part, const Run& run) {
    if (kind_ == FltProgramKind::kBlocks) return false;
    return WithFltTeam<kTask>(call, [&](auto sizes) {
      using Sizes = decltype(sizes);
      const FltTeamLayout at = FltTeamLayout::Of<Sizes>(call.shape, kTask);
      // Nothing may be read before it is written: NaN in all halves.
      std::vector<uint32_t> memory(at.end, 0x7FFF7FFFU);
      const FltTeamSpace<Sizes> space = {call, part, at, memory.data()};
      EmulatedTeam<Sizes> team(space);
      run(space, team);
      ++team_parts_;
    });
  }

  // The same.
  static std::vector<float> Scratch(const FltCall& call) {
    return std::vector<float>(FltScratchLayout(call.shape, call.tile_rows).end, std::nanf(""));
  }

  const FltProgramKind kind_;
  size_t team_parts_ = 0, quick_parts_ = 0, group_parts_ = 0, careful_calls_ = 0,
         careful_back_calls_ = 0, quick_back_parts_ = 0;
  uint32_t flag_ = 0;
};

}  // namespace mnemosyne::kernels::cuda
