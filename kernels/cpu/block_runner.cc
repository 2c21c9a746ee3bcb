#include "kernels/cpu/block_runner.h"

#include <algorithm>
#include <unsupported/Eigen/CXX11/ThreadPool>

namespace mnemosyne::kernels::cpu {
namespace {

// Waking a thread costs about as much as one works off in this many tasks.
constexpr size_t kTasksToShare = 3;

std::unique_ptr<Eigen::ThreadPoolInterface> MakePool(int threads) {
  if (threads < 2) return nullptr;
  // Threads without work sleep rather than spin: the daemon shares its machine.
  return std::make_unique<Eigen::ThreadPool>(threads - 1, /*allow_spinning=*/false);
}

}  // namespace

BlockRunner::BlockRunner(int threads)
    : threads_(threads),
      pool_(MakePool(threads)),
      shares_(std::make_unique<Share[]>(static_cast<size_t>(threads))) {}

BlockRunner::~BlockRunner() = default;

// A task is enough work to pay for taking it, and little enough that threads end together.
size_t BlockRunner::CutIntoTasks(std::span<const Block> blocks, size_t task_elements) {
  task_starts_.clear();
  size_t elements = task_elements;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (elements >= task_elements) {
      task_starts_.push_back(i);
      elements = 0;
    }
    elements += blocks[i].count;
  }
  task_starts_.push_back(blocks.size());
  return task_starts_.size() - 1;
}

void BlockRunner::Run(std::span<const Block> blocks, const std::function<void(size_t)>& work,
                      size_t task_elements) {
  const size_t tasks = CutIntoTasks(blocks, task_elements);
  const size_t helpers = std::min(static_cast<size_t>(threads_ - 1), tasks / kTasksToShare);
  const size_t workers = helpers + 1;
  for (size_t i = 0; i < workers; ++i) {
    shares_[i].next = tasks * i / workers;
    shares_[i].end = tasks * (i + 1) / workers;
  }
  // Takes the worker's own share, then what is left of the others'.
  const auto take_tasks = [&](size_t worker) {
    for (size_t i = 0; i < workers; ++i) {
      Share& share = shares_[(worker + i) % workers];
      for (size_t task = share.next++; task < share.end; task = share.next++) {
        for (size_t k = task_starts_[task]; k < task_starts_[task + 1]; ++k) work(k);
      }
    }
  };
  if (helpers == 0) return take_tasks(0);
  Eigen::Barrier done(static_cast<unsigned>(helpers));
  for (size_t i = 0; i < helpers; ++i) {
    pool_->Schedule([&] {
      take_tasks(static_cast<size_t>(pool_->CurrentThreadId()) + 1);
      done.Notify();
    });
  }
  take_tasks(0);
  done.Wait();
}

}  // namespace mnemosyne::kernels::cpu
