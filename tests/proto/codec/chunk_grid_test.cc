#include "proto/codec/chunk_grid.h"

#include <gtest/gtest.h>

#include <vector>

namespace mnemosyne::codec {
namespace {

TEST(ChunkGridTest, CutsAParameterIntoFullCellsAndOneThatHoldsTheRest) {
  const std::vector<size_t> counts = {10};

  const ChunkGrid grid(counts, 4);

  EXPECT_EQ(grid.CellsOf(0), 3);
  EXPECT_EQ(grid.At(0, 0).start, 0);
  EXPECT_EQ(grid.At(0, 0).count, 4);
  EXPECT_EQ(grid.At(0, 2).start, 8);
  EXPECT_EQ(grid.At(0, 2).count, 2);
}

TEST(ChunkGridTest, HasNoEmptyCellWhereTheSizeIsAMultiple) {
  const std::vector<size_t> counts = {8};

  const ChunkGrid grid(counts, 4);

  EXPECT_EQ(grid.CellsOf(0), 2);
  EXPECT_EQ(grid.At(0, 1).count, 4);
}

TEST(ChunkGridTest, NumbersTheCellsThroughAllParameters) {
  const std::vector<size_t> counts = {1, 9, 4};

  const ChunkGrid grid(counts, 4);

  EXPECT_EQ(grid.parameter_count(), 3);
  EXPECT_EQ(grid.cell_count(), 1 + 3 + 1);
  EXPECT_EQ(grid.Index(0, 0), 0);
  EXPECT_EQ(grid.Index(1, 2), 3);
  EXPECT_EQ(grid.Index(2, 0), 4);
}

TEST(ChunkGridTest, CoversEachElementOnce) {
  const std::vector<size_t> counts = {1, 2, 3, 7, 8, 9, 100};
  for (size_t cell_elements = 1; cell_elements < 12; ++cell_elements) {
    const ChunkGrid grid(counts, cell_elements);
    for (size_t parameter = 0; parameter < counts.size(); ++parameter) {
      size_t next = 0;
      for (size_t cell = 0; cell < grid.CellsOf(parameter); ++cell) {
        EXPECT_EQ(grid.At(parameter, cell).start, next);
        EXPECT_GT(grid.At(parameter, cell).count, 0);
        next += grid.At(parameter, cell).count;
      }
      EXPECT_EQ(next, counts[parameter]);
    }
  }
}

TEST(ChunkGridTest, TakesAModelWithoutParameters) {
  const ChunkGrid grid({}, 4);

  EXPECT_EQ(grid.parameter_count(), 0);
  EXPECT_EQ(grid.cell_count(), 0);
}

}  // namespace
}  // namespace mnemosyne::codec
