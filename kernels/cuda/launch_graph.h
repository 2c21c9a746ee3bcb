// A sequence of launches that is recorded once, and then started by a single call.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace mnemosyne::kernels::cuda {

// Thread-safety: as Backend. Must be forgotten, or destroyed, before what its launches point to.
class LaunchGraph {
 public:
  LaunchGraph() = default;
  LaunchGraph(const LaunchGraph&) = delete;
  LaunchGraph& operator=(const LaunchGraph&) = delete;
  ~LaunchGraph() { Forget(); }

  // Queues on `stream` what queue(stream) queues there, which returns a cudaError_t, and depends on
  // `key` alone and on memory whose address does. Recording takes longer than a sequence saves, so
  // that it is done once a key comes again; where a sequence cannot be recorded, it is queued as it
  // is.
  template <typename Queue>
  cudaError_t Run(cudaStream_t stream, std::span<const std::byte> key, const Queue& queue) {
    if (key_.size() != key.size() || std::memcmp(key_.data(), key.data(), key.size()) != 0) {
      Forget();
      key_.assign(key.begin(), key.end());
      return queue(stream);
    }
    if (recorded_ == nullptr && can_record_) can_record_ = Record(queue);
    return recorded_ != nullptr ? cudaGraphLaunch(recorded_, stream) : queue(stream);
  }

  void Forget() {
    if (recorded_ != nullptr) cudaGraphExecDestroy(std::exchange(recorded_, nullptr));
    key_.clear();
    can_record_ = true;
  }

 private:
  // Aside from the stream that other threads free memory on.
  template <typename Queue>
  bool Record(const Queue& queue) {
    cudaStream_t aside = nullptr;
    cudaGraph_t graph = nullptr;
    cudaError_t error = cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking);
    if (error == cudaSuccess) {
      error = cudaStreamBeginCapture(aside, cudaStreamCaptureModeThreadLocal);
    }
    if (error == cudaSuccess) {
      const cudaError_t queued = queue(aside);
      error = cudaStreamEndCapture(aside, &graph);
      if (error == cudaSuccess) error = queued;
    }
    if (error == cudaSuccess) error = cudaGraphInstantiate(&recorded_, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (aside != nullptr) cudaStreamDestroy(aside);
    if (error == cudaSuccess) return true;
    recorded_ = nullptr;
    cudaGetLastError();  // The runtime remembers the error otherwise.
    return false;
  }

  std::vector<std::byte> key_;
  cudaGraphExec_t recorded_ = nullptr;
  bool can_record_ = true;
};

}  // namespace mnemosyne::kernels::cuda
