// FLT attention and its comparators as plain loops in double over all pairs: the specification, for
// tests and for measuring accuracy. Cost is quadratic in the length.
//
// Sources: arXiv 2302.01925 (FLT); arXiv 2106.12566 (Toeplitz masks by FFT); arXiv 2105.08399
// (SPE); arXiv 2205.13401 (URPE).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels::reference {

// Everything that the answer depends on, in double. Dense arrays as in FltAttentionArgs.
struct FltProblem {
  FltConfig config;
  size_t positions = 0;  // l
  size_t waves = 0;      // r
  std::vector<double> frequencies, real, imaginary, constant;
  std::vector<double> projection;  // [sets, P, E]

  size_t batch = 1, length = 0;
  bool causal = false;
  std::vector<size_t> sequence_starts;
  std::vector<uint8_t> mask;    // [batch, length], or empty.
  std::vector<double> at;       // [length, l]
  std::vector<double> q, k, v;  // [batch, heads, length, dim]
};

// The problem of a kernel, without rows.
FltProblem MakeProblem(const FltKernel& kernel);

// Which attention.
enum class AttentionMethod : uint8_t {
  kFlt,
  kExactSoftmax,  // A = exp(s q . k + f(r_i - r_j)), or exp(s q . k) T(r_i - r_j).
  kToeplitz,      // A = phi(q) . phi(k) exp(f(i - j)), or T; evenly spaced positions in 1-D.
  kSpe,           // FLT without waves of noisy q and k whose products have the mask as a mean.
  kUrpe,          // Softmax without a mask, multiplied by T(r_i - r_j) and not normalized again.
};

// f_h(z), or T_h(z) in the multiplicative form, at the offset of two rows.
double MaskAt(const FltProblem& problem, size_t head, size_t row, size_t key);

// What row i of a head gives to each key: [length, length], with rows that add up to 1 (but for
// kUrpe). Not for kToeplitz and kSpe.
std::vector<double> AttentionMatrix(const FltProblem& problem, AttentionMethod method, size_t batch,
                                    size_t head);

// Outputs [batch, heads, length, Dv].
std::vector<double> Attend(const FltProblem& problem,
                           AttentionMethod method = AttentionMethod::kFlt);

// SPE has `realizations` noises a head, drawn from `seed`: for q and k [batch, heads, length, R].
struct SpeRows {
  std::vector<double> q, k;
};
SpeRows MakeSpeRows(const FltProblem& problem, size_t realizations, uint64_t seed);

}  // namespace mnemosyne::kernels::reference
