// The numbers that an update rule needs for one segment. Plain structs, so that files compiled for
// one instruction set or by the CUDA compiler can include them.
//
// The rules are those of PyTorch's single-tensor optimizers on a CPU with AVX2, rounding for
// rounding. fma() rounds once, every other operation rounds its result to float32, and everything
// is done from left to right. The baseline instruction set has no fma: it rounds the product, too,
// as PyTorch does there.
#pragma once

#include <cstddef>

namespace mnemosyne::kernels {

// Stochastic gradient descent:
//
//   d = gradient_scale g
//   without momentum:  u = d
//   with it:           b <- fma(d, gradient_weight, momentum b), but b <- d in the first step
//                      u = fma(b, momentum, d) with Nesterov's rule, else u = b
struct SgdCoefficients {
  float gradient_scale = 1;   // Negative to climb.
  float momentum = 0;         // 0 leaves the momentum arena alone.
  float gradient_weight = 1;  // 1 - dampening.
  bool first_step = false;
  bool nesterov = false;
};

// Adam, without decay:
//
//   d = gradient_scale g
//   m <- fma(d, one_minus_beta1, beta1 m)
//   v <- fma(one_minus_beta2 d, d, beta2 v)
//   u = (negative_step_size m) / (sqrt(v) / bias_correction2_sqrt + epsilon)
//
// Reference: Kingma and Ba, "Adam", ICLR 2015 (arXiv:1412.6980).
struct AdamCoefficients {
  float gradient_scale = 1;
  float beta1 = 0;
  float one_minus_beta1 = 1;
  float beta2 = 0;
  float one_minus_beta2 = 1;
  float bias_correction2_sqrt = 1;
  float epsilon = 0;
  float negative_step_size = -1;
};

// Lion, without rate and decay:
//
//   d = gradient_scale g
//   u = sign(beta1 m + one_minus_beta1 d)     the sign of 0 is 0
//   m <- fma(d, one_minus_beta2, beta2 m)
//
// Reference: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023
// (arXiv:2302.06675), algorithm 2.
struct LionCoefficients {
  float gradient_scale = 1;
  float beta1 = 0;
  float one_minus_beta1 = 1;
  float beta2 = 0;
  float one_minus_beta2 = 1;
};

// Elements whose signs share a word of Lion's sign arena: bit i says that element i is negative,
// bit 16 + i that it is positive.
inline constexpr size_t kSignsPerWord = 16;

}  // namespace mnemosyne::kernels
