// What the flagship's kernels are told of the states that share a call, and of their chunks: tables
// that are built and sent once for as long as the same states step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/launch_graph.h"
#include "kernels/cuda/mnemosyne_tables.h"
#include "kernels/cuda/staging.h"
#include "kernels/mnemosyne_step.h"

namespace mnemosyne::kernels::cuda {

// A state's part of a call.
struct MnemosynePart {
  const MnemosyneMemory& memory;
  std::span<const size_t> parameters;  // That take part.
  float* values;
};

// All states have one model, and memories of coordinates of the same width.
class MnemosynePlan {
 public:
  // Whether it is that of `parts`, whose contents of level 2 have `size` numbers.
  bool AreOf(const std::span<const MnemosynePart>& parts, size_t size) const;

  // Errors as Staging::Upload.
  absl::Status Make(Backend& backend, const std::span<const MnemosynePart>& parts, size_t size);

  MnemosyneStates states() const;
  MnemosyneContextTables context() const;
  // Without what changes from step to step.
  MnemosyneStepTables step() const;

  std::span<const uint32_t> level_counts() const { return level_counts_; }  // Of context().sums.
  std::span<const ChunkTile> taking_tiles() const { return taking_tiles_; }
  size_t row_count() const { return row_count_; }  // Of the workspace.
  size_t taking_count() const { return taking_count_; }

  LaunchGraph& graph() { return graph_; }

 private:
  void AddState(const MnemosynePart& part);
  // Tiles as `of`, over the chunks of `tensor`.
  static void AddTiles(const MnemosyneTensor& tensor, const ChunkTile& of,
                       std::vector<ChunkTile>& tiles);
  void AddSums();

  // What it was made of.
  size_t size_ = 0;
  std::vector<MnemosyneArrays> arrays_;   // Of each state.
  std::vector<MnemosyneTensor> tensors_;  // Of all states.
  std::vector<size_t> parameters_;        // That take part, of all states;
  std::vector<size_t> parameter_counts_;  // how many of each.

  std::vector<ChunkTile> tiles_, taking_tiles_;
  std::vector<size_t> first_tiles_;  // Of each parameter, and their end.
  std::vector<uint32_t> chunks_;     // Of taking_tiles_.
  std::vector<RowSum> sums_;
  std::vector<uint32_t> level_counts_;
  size_t row_count_ = 0;
  size_t taking_count_ = 0;

  Staging staging_;
  size_t arrays_at_ = 0, tensors_at_ = 0, tiles_at_ = 0, taking_tiles_at_ = 0, chunks_at_ = 0,
         sums_at_ = 0;
  LaunchGraph graph_;
};

}  // namespace mnemosyne::kernels::cuda
