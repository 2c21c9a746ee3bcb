// The loops for every machine: arrays of lanes, which compilers turn into whatever vectors the
// baseline of the build has. It has no fused multiply-add.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {
namespace {

struct Floats {
  alignas(16) float lanes[16];
};

// Applies `op` to each lane.
template <typename Op>
inline Floats Map(Op op) {
  Floats result;
  for (size_t i = 0; i < 16; ++i) result.lanes[i] = op(i);
  return result;
}

inline Floats Load(const float* source) {
  Floats result;
  memcpy(result.lanes, source, sizeof(result.lanes));
  return result;
}
inline void Store(float* target, const Floats& x) { memcpy(target, x.lanes, sizeof(x.lanes)); }
inline Floats Splat(float x) {
  return Map([&](size_t) { return x; });
}
inline Floats operator+(const Floats& a, const Floats& b) {
  return Map([&](size_t i) { return a.lanes[i] + b.lanes[i]; });
}
inline Floats operator*(const Floats& a, const Floats& b) {
  return Map([&](size_t i) { return a.lanes[i] * b.lanes[i]; });
}
inline Floats operator/(const Floats& a, const Floats& b) {
  return Map([&](size_t i) { return a.lanes[i] / b.lanes[i]; });
}
inline Floats Sqrt(const Floats& a) {
  return Map([&](size_t i) { return __builtin_sqrtf(a.lanes[i]); });
}
inline Floats Fma(const Floats& a, const Floats& b, const Floats& c) { return a * b + c; }

inline bool IsFinite(float x) { return __builtin_fabsf(x) <= 3.40282346638528859812e38F; }
inline Floats ZeroNonFinite(const Floats& a) {
  return Map([&](size_t i) { return IsFinite(a.lanes[i]) ? a.lanes[i] : 0.0F; });
}
inline int CountNonFinite(const Floats& a) {
  int count = 0;
  for (const float x : a.lanes) count += IsFinite(x) ? 0 : 1;
  return count;
}

inline uint32_t Signs(const Floats& a) {
  uint32_t word = 0;
  for (size_t i = 0; i < 16; ++i) {
    word |= uint32_t{a.lanes[i] < 0} << i;
    word |= uint32_t{a.lanes[i] > 0} << (16 + i);
  }
  return word;
}
inline Floats FromSigns(uint32_t word) {
  return Map([&](size_t i) {
    const uint32_t positive = (word >> (16 + i)) & 1;
    const uint32_t negative = (word >> i) & 1;
    return static_cast<float>(static_cast<int>(positive) - static_cast<int>(negative));
  });
}

struct SquareSum {
  double lanes[16] = {};

  void Add(const Floats& x) {
    for (size_t i = 0; i < 16; ++i) {
      lanes[i] += static_cast<double>(x.lanes[i]) * static_cast<double>(x.lanes[i]);
    }
  }
  void Store(double* target) const { memcpy(target, lanes, sizeof(lanes)); }
};

}  // namespace
}  // namespace mnemosyne::kernels::cpu

#include "kernels/cpu/kernel_loops.h"

namespace mnemosyne::kernels::cpu {
const KernelTable kBaselineKernels = MakeTable("baseline");
}  // namespace mnemosyne::kernels::cpu
