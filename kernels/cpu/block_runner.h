// Spreads the blocks of an op over threads.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/block.h"

namespace Eigen {
class ThreadPoolInterface;
}  // namespace Eigen

namespace mnemosyne::kernels::cpu {

// Threads that work on blocks together with the caller. Which thread takes which block is left to
// chance; results must not depend on it.
//
// Thread-safety: one caller at a time.
class BlockRunner {
 public:
  // `threads`, at least 1, counts the caller.
  explicit BlockRunner(int threads);
  ~BlockRunner();

  int threads() const { return threads_; }

  // Calls work(i) once for each block i, concurrently, and returns when all are done.
  void Run(std::span<const Block> blocks, const std::function<void(size_t)>& work);

 private:
  const int threads_;
  const std::unique_ptr<Eigen::ThreadPoolInterface> pool_;  // threads_ - 1 threads, or null.
  std::vector<size_t> task_starts_;  // Workspace: where each run of blocks starts, and the end.
};

}  // namespace mnemosyne::kernels::cpu
