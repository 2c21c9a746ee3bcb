// The programs of the flagship's CUDA kernels, run on the CPU: their arithmetic and their indices,
// without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/host_lanes.h"
#include "kernels/cuda/mnemosyne_block.h"
#include "kernels/cuda/mnemosyne_context.h"
#include "kernels/cuda/mnemosyne_team.h"
#include "kernels/mnemosyne_chunk.h"
#include "tests/kernels/mnemosyne_example.h"

namespace mnemosyne::kernels::cuda {
namespace {

// A block of one thread.
struct OneThread {
  template <typename F>
  static void ForEach(size_t count, const F& f) {
    for (size_t i = 0; i < count; ++i) f(i);
  }
};

// A block of some threads, so that ThreadSanitizer sees what a missing barrier would break.
struct SomeThreads {
  static constexpr size_t kCount = 3;

  template <typename F>
  static void ForEach(size_t count, const F& f) {
    for (size_t i = own; i < count; i += kCount) f(i);
    barrier->arrive_and_wait();
  }

  // Calls program() on all threads of a block.
  template <typename Program>
  static void Run(const Program& program) {
    std::barrier<> shared(kCount);
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kCount; ++i) {
      threads.emplace_back([&, i] {
        own = i;
        barrier = &shared;
        program();
      });
    }
  }

 private:
  static inline thread_local size_t own = 0;
  static inline thread_local std::barrier<>* barrier = nullptr;
};

void RunContext(const MnemosyneContextArgs& args) {
  const MnemosyneMemory& memory = args.memory;
  const size_t size = ContextContentCount(args.model.sizes);
  MnemosyneArrays arrays = {};
  arrays.tokens = memory.tokens;
  arrays.choices = memory.choices;
  arrays.chunks = memory.chunks;
  arrays.context_queries = memory.context_queries;
  std::vector<float> scratch(ContextScratchCount(args.model.sizes));
  std::vector<float> parts(2 * size), all(size);
  for (size_t t = 0; t < memory.tensors.size(); ++t) {
    const MnemosyneTensor& tensor = memory.tensors[t];
    std::vector<float> own(size);
    MnemosyneTensorSums& sums = args.sums[t];
    sums = {};
    const size_t end = tensor.first_chunk + tensor.chunk_count;
    for (size_t first = tensor.first_chunk; first < end; first += kTileChunks) {
      const ChunkTile tile = {static_cast<uint32_t>(first),
                              static_cast<uint32_t>(std::min(end - first, kTileChunks)),
                              static_cast<uint32_t>(t), 0, 0};
      TileSums tile_sums = {};
      ContextTile<OneThread>(args.model, arrays, tile, scratch.data(), parts.data(), &tile_sums);
      for (size_t i = 0; i < size; ++i) {
        own[i] += parts[i];
        all[i] += parts[size + i];
      }
      sums.mean_square += tile_sums.mean_square / static_cast<double>(tensor.count);
      sums.shrink += tile_sums.shrink / static_cast<double>(tensor.chunk_count);
    }
    sums.shrink = std::min(sums.shrink, kShrinkMax);
    std::copy(own.begin(), own.end(), memory.context_contents + t * size);
  }
  std::copy(all.begin(), all.end(), memory.context_contents + memory.tensors.size() * size);
}

// Calls run(chunk, &square_sum, &capped) for all chunks, and adds up.
template <typename RunChunk>
void ForChunks(const MnemosyneStepArgs& args, const RunChunk& run) {
  for (size_t k = 0; k < args.parameters.size(); ++k) {
    const MnemosyneTensor& tensor = args.memory.tensors[args.parameters[k]];
    args.square_sums[k] = 0;
    args.capped[k] = 0;
    for (size_t c = tensor.first_chunk; c < tensor.first_chunk + tensor.chunk_count; ++c) {
      double square_sum = -1;
      uint32_t capped = 2;
      MnemosyneChunkStep step = ChunkStep(args, k, c);
      MnemosyneRounding rounding;
      if (args.memory.is_half()) {
        rounding = RoundingOf(args, k, c);
        step.rounding = &rounding;
      }
      run(step, &square_sum, &capped);
      args.square_sums[k] += square_sum;
      args.capped[k] += capped;
    }
  }
}

template <class Memory>
void RunBlocks(const MnemosyneStepArgs& args) {
  std::vector<double> scratch(BlockScratch::Count(args.model.sizes) / 2 + 1);
  ForChunks(args, [&](const MnemosyneChunkStep& step, double* square_sum, uint32_t* capped) {
    BlockChunk<OneThread, Memory> chunk(args.model, reinterpret_cast<float*>(scratch.data()), step);
    args.replay ? chunk.Replay(square_sum, capped) : chunk.Step(square_sum, capped);
  });
}

template <class Memory>
void RunBlocksOfThreads(const MnemosyneStepArgs& args) {
  std::vector<double> scratch(BlockScratch::Count(args.model.sizes) / 2 + 1);
  ForChunks(args, [&](const MnemosyneChunkStep& step, double* square_sum, uint32_t* capped) {
    SomeThreads::Run([&] {
      BlockChunk<SomeThreads, Memory> chunk(args.model, reinterpret_cast<float*>(scratch.data()),
                                            step);
      args.replay ? chunk.Replay(square_sum, capped) : chunk.Step(square_sum, capped);
    });
  });
}

// A team, whose warps do each part one after the other.
template <template <class> class Memory>
void RunTeams(const MnemosyneStepArgs& args) {
  ASSERT_TRUE(TeamSizes::Fit(args.model.sizes));
  struct alignas(16) Shared {
    float weights[(TeamWeights::kCount + 3) / 4 * 4];
    TeamScratch scratch;
  };
  const auto shared = std::make_unique<Shared>();
  constexpr int kThreads = 3;  // They share the copying.
  for (int i = 0; i < kThreads; ++i) {
    TeamWeights::Stage(args.model.weights, shared->weights, i, kThreads);
  }
  const TeamModel model = TeamModel::Of(args.model);
  ForChunks(args, [&](const MnemosyneChunkStep& step, double* square_sum, uint32_t* capped) {
    const MnemosyneChoice before = *step.choice;
    std::vector<std::unique_ptr<TeamWarp<HostLanes, Memory>>> team;
    for (int w = 0; w < TeamSizes::kWarps; ++w) {
      team.push_back(std::make_unique<TeamWarp<HostLanes, Memory>>(
          model, shared->weights, shared->scratch, step, before, w));
    }
    if (args.replay) {
      for (auto& warp : team) warp->Replay();
      return team.front()->FinishReplay(square_sum, capped);
    }
    if constexpr (Memory<HostLanes>::kRounds) {
      for (auto& warp : team) warp->WriteSquares();
    }
    for (auto& warp : team) warp->Measure();
    for (auto& warp : team) warp->DecideFirst();
    for (auto& warp : team) warp->DecideSecond();
    for (auto& warp : team) warp->DecideThird();
    for (auto& warp : team) warp->DecideLast();
    for (auto& warp : team) warp->WriteMemory();
    const float cap = team.back()->Bound();
    for (auto& warp : team) warp->WriteUpdate(cap);
    team.front()->Finish(cap, square_sum, capped);
  });
}

// Of all that they hold but pointers, which lie in the pool, too.
bool HaveSameBits(const MnemosyneExample& a, const MnemosyneExample& b) {
  const auto same = [](const float* x, const float* y, size_t count) {
    return x == nullptr || std::memcmp(x, y, count * sizeof(float)) == 0;
  };
  const MnemosyneMemory &m = a.memory, &n = b.memory;
  return same(a.values.data(), b.values.data(), a.arena_size) &&
         same(a.Choices().data(), b.Choices().data(), a.Choices().size()) &&
         same(m.fast, n.fast, a.arena_size) && same(m.square, n.square, a.arena_size) &&
         same(m.slow, n.slow, a.arena_size) && std::ranges::equal(a.halves(), b.halves()) &&
         a.square_sums == b.square_sums && a.capped == b.capped;
}

constexpr float kClocks[] = {1, 2, 3, 4};

TEST(MnemosyneProgramsTest, ABlockHasTheNumbersOfTheReference) {
  for (const SizesExample& sizes : AllSizes()) {
    MnemosyneExample actual(sizes.sizes), expected(sizes.sizes);
    for (const float clock : kClocks) {
      actual.Run(clock, &RunContext, &RunBlocks<BlockFloats>);
      expected.RunReference(clock);
      ExpectSame(actual, expected, 2e-5, sizes.name + ", step " + std::to_string(clock) + ", ");
    }
  }
}

// Where the arithmetic of both differs in a last bit, a number may be rounded to the other side.
TEST(MnemosyneProgramsTest, ABlockKeepsAStateOfSixteenBits) {
  for (const SizesExample& sizes : AllSizes()) {
    MnemosyneExample actual(sizes.sizes, /*half=*/true), expected(sizes.sizes, /*half=*/true);
    for (const float clock : kClocks) {
      actual.Run(clock, &RunContext, &RunBlocks<BlockHalves>);
      expected.RunReference(clock);
      ExpectSameHalves(actual, expected, sizes.name + ", step " + std::to_string(clock) + ", ");
    }
  }
}

TEST(MnemosyneProgramsTest, TheThreadsOfABlockHaveTheBitsOfOne) {
  for (const SizesExample& sizes : AllSizes()) {
    for (const bool half : {false, true}) {
      MnemosyneExample actual(sizes.sizes, half), expected(sizes.sizes, half);
      for (const float clock : kClocks) {
        actual.Run(clock, &RunContext,
                   half ? &RunBlocksOfThreads<BlockHalves> : &RunBlocksOfThreads<BlockFloats>);
        expected.Run(clock, &RunContext, half ? &RunBlocks<BlockHalves> : &RunBlocks<BlockFloats>);
        EXPECT_TRUE(HaveSameBits(actual, expected)) << sizes.name;
      }
    }
  }
}

TEST(MnemosyneProgramsTest, ATeamHasTheNumbersOfTheReference) {
  MnemosyneExample actual(ShippedSizes()), expected(ShippedSizes());
  for (const float clock : kClocks) {
    actual.Run(clock, &RunContext, &RunTeams<FullMemory>);
    expected.RunReference(clock);
    ExpectSame(actual, expected, 2e-5, "step " + std::to_string(clock) + ", ");
  }
}

// Where the arithmetic of both differs in a last bit, a number may be rounded to the other side.
TEST(MnemosyneProgramsTest, ATeamKeepsAStateOfSixteenBits) {
  MnemosyneExample actual(ShippedSizes(), /*half=*/true), expected(ShippedSizes(), /*half=*/true);
  for (const float clock : kClocks) {
    actual.Run(clock, &RunContext, &RunTeams<HalfMemory>);
    expected.RunReference(clock);
    ExpectSameHalves(actual, expected, "step " + std::to_string(clock) + ", ");
  }
}

// The update once more has the bits of the step, capped or not.
TEST(MnemosyneProgramsTest, AReplayHasTheSameBits) {
  for (const auto run : {&RunBlocks<BlockFloats>, &RunBlocks<BlockHalves>, &RunTeams<FullMemory>,
                         &RunTeams<HalfMemory>}) {
    const bool half = run == &RunBlocks<BlockHalves> || run == &RunTeams<HalfMemory>;
    MnemosyneExample example(ShippedSizes(), half);
    for (const float clock : kClocks) {
      std::vector<float> gradients, updates;
      std::vector<double> square_sums;
      example.Run(clock, &RunContext, [&](const MnemosyneStepArgs& args) {
        gradients.assign(example.values.begin(), example.values.end());
        run(args);
        updates.assign(example.values.begin(), example.values.end());
        square_sums = example.square_sums;

        std::copy(gradients.begin(), gradients.end(), example.values.begin());
        run({args.model, args.memory, args.parameters, args.steps, args.sums, args.values,
             args.square_sums, args.capped, /*replay=*/true});
      });
      EXPECT_EQ(updates, std::vector<float>(example.values.begin(), example.values.end()));
      EXPECT_EQ(square_sums, example.square_sums);
    }
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::cuda
