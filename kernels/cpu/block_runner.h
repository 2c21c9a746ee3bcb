// Spreads the blocks of an op over threads.
#pragma once

#include <atomic>
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

// Threads that work on blocks together with the caller. Each has a share of its own, the same in
// every run over the same blocks, so that its caches keep what they can; who is done early helps
// the others. Which thread takes which block is thus left to chance: results must not depend on it.
//
// Thread-safety: one caller at a time.
class BlockRunner {
 public:
  // `threads`, at least 1, counts the caller.
  explicit BlockRunner(int threads);
  ~BlockRunner();

  int threads() const { return threads_; }

  // Elements that a thread takes at once where an element costs a few operations.
  static constexpr size_t kTaskElements = size_t{1} << 14;

  // Calls work(i) once for each block i, concurrently, and returns when all are done. A thread
  // takes blocks of about `task_elements` elements at once: give as many as take some 10 us.
  void Run(std::span<const Block> blocks, const std::function<void(size_t)>& work,
           size_t task_elements = kTaskElements);

 private:
  // The tasks of one thread that nobody has taken yet; on a cache line of its own.
  struct alignas(64) Share {
    std::atomic<size_t> next;
    size_t end;
  };

  // Writes where each run of blocks starts to task_starts_, and returns their number.
  size_t CutIntoTasks(std::span<const Block> blocks, size_t task_elements);

  const int threads_;
  const std::unique_ptr<Eigen::ThreadPoolInterface> pool_;  // threads_ - 1 threads, or null.

  // Workspace.
  std::vector<size_t> task_starts_;        // Where each run of blocks starts, and the end.
  const std::unique_ptr<Share[]> shares_;  // [threads_]
};

}  // namespace mnemosyne::kernels::cpu
