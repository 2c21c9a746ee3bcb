#include "kernels/cpu/block_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace mnemosyne::kernels::cpu {
namespace {

TEST(BlockRunnerTest, WorksOnEachBlockOnce) {
  for (const size_t size : {size_t{100}, size_t{10'000}, size_t{100'000}}) {
    for (const size_t count : std::initializer_list<size_t>{0, 1, 2, 3, 50, 1000}) {
      const std::vector<Block> blocks(count, Block{0, 0, size});
      for (const int threads : {1, 2, 5}) {
        BlockRunner runner(threads);
        std::vector<std::atomic<int>> visits(count);

        runner.Run(blocks, [&](size_t i) { ++visits[i]; });

        for (const std::atomic<int>& visit : visits) EXPECT_EQ(visit.load(), 1);
      }
    }
  }
}

TEST(BlockRunnerTest, RunsManyTimes) {
  BlockRunner runner(3);
  const std::vector<Block> blocks(20, Block{0, 0, 100'000});
  std::atomic<int> visits{0};

  for (int i = 0; i < 200; ++i) runner.Run(blocks, [&](size_t) { ++visits; });

  EXPECT_EQ(visits.load(), 200 * 20);
}

TEST(BlockTest, CutsSegmentsInOrder) {
  std::vector<Block> blocks;
  CutIntoBlocks(std::vector<Segment>{{0, 3}, {16, 10}}, 4, blocks);

  const auto is = [](size_t segment, size_t offset, size_t count) {
    return ::testing::AllOf(::testing::Field(&Block::segment, segment),
                            ::testing::Field(&Block::offset, offset),
                            ::testing::Field(&Block::count, count));
  };
  EXPECT_THAT(blocks,
              ::testing::ElementsAre(is(0, 0, 3), is(1, 16, 4), is(1, 20, 4), is(1, 24, 2)));
}

TEST(BlockTest, AddsUpTheBlocksOfASegment) {
  const std::vector<Block> blocks = {{0, 0, 1}, {1, 1, 1}, {1, 2, 1}};
  std::vector<double> sums(3, 9);

  SumBlocks(blocks, std::vector<double>{1, 2, 4}, sums);

  EXPECT_THAT(sums, ::testing::ElementsAre(1, 6, 0));
}

}  // namespace
}  // namespace mnemosyne::kernels::cpu
