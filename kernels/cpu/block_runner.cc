#include "kernels/cpu/block_runner.h"

#include <algorithm>
#include <atomic>
#include <unsupported/Eigen/CXX11/ThreadPool>

namespace mnemosyne::kernels::cpu {
namespace {

// Elements that a thread takes at once: enough work (some 10 us) to pay for taking it, few enough
// that threads end together.
constexpr size_t kTaskElements = size_t{1} << 14;

// Waking a thread costs about as much as one works off in this many tasks.
constexpr size_t kTasksToShare = 3;

std::unique_ptr<Eigen::ThreadPoolInterface> MakePool(int threads) {
  if (threads < 2) return nullptr;
  // Threads without work sleep rather than spin: the daemon shares its machine.
  return std::make_unique<Eigen::ThreadPool>(threads - 1, /*allow_spinning=*/false);
}

}  // namespace

BlockRunner::BlockRunner(int threads) : threads_(threads), pool_(MakePool(threads)) {}
BlockRunner::~BlockRunner() = default;

void BlockRunner::Run(std::span<const Block> blocks, const std::function<void(size_t)>& work) {
  task_starts_.clear();
  size_t elements = kTaskElements;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (elements >= kTaskElements) {
      task_starts_.push_back(i);
      elements = 0;
    }
    elements += blocks[i].count;
  }
  const size_t tasks = task_starts_.size();
  task_starts_.push_back(blocks.size());

  std::atomic<size_t> next{0};
  const auto take_tasks = [&] {
    for (size_t task = next++; task < tasks; task = next++) {
      for (size_t i = task_starts_[task]; i < task_starts_[task + 1]; ++i) work(i);
    }
  };
  const size_t helpers = std::min(static_cast<size_t>(threads_ - 1), tasks / kTasksToShare);
  if (helpers == 0) return take_tasks();
  Eigen::Barrier done(static_cast<unsigned>(helpers));
  for (size_t i = 0; i < helpers; ++i) {
    pool_->Schedule([&] {
      take_tasks();
      done.Notify();
    });
  }
  take_tasks();
  done.Wait();
}

}  // namespace mnemosyne::kernels::cpu
