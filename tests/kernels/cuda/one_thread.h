// A block of a GPU on the CPU: one thread stands for all of them in turn, and for all warps of a
// team.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

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

// The warps of a block that share its memory; each does a step before the next one begins.
template <class Warp>
class EmulatedTeam {
 public:
  template <class Space>
  EmulatedTeam(const Space& space, uint32_t count) {
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
  Warp& warp() { return warps_.back(); }

 private:
  std::vector<Warp> warps_;
};

// The shared memory of a block, in words. Nothing may be read before it is written: all halves are
// NaN. Copies of 16 bytes are aligned.
class EmulatedMemory {
 public:
  explicit EmulatedMemory(size_t words) : fours_((words + 3) / 4) {}

  uint32_t* data() { return &fours_[0].x[0]; }

 private:
  struct alignas(16) Four {
    uint32_t x[4] = {0x7FFF7FFFU, 0x7FFF7FFFU, 0x7FFF7FFFU, 0x7FFF7FFFU};
  };

  std::vector<Four> fours_;
};

}  // namespace mnemosyne::kernels::cuda
