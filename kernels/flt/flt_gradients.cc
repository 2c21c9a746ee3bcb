#include "kernels/flt/flt_gradients.h"

#include <cmath>
#include <numbers>

namespace mnemosyne::kernels {
namespace {

constexpr double kMagnitudeSmoothing = 1e-12;  // As in flt_kernel.cc.

void WriteProjection(const FltBackwardArgs& args, const FltGradientSums& sums) {
  const FltKernel& kernel = *args.kernel;
  const size_t inputs = FltInputCount(kernel.sizes);
  for (size_t row = 0; row < sums.bias.size(); ++row) {
    for (size_t i = 0; i < inputs; ++i) {
      const double w = kernel.projection[row * inputs + i];
      args.projection_gradient[row * inputs + i] =
          static_cast<float>(kernel.projection_factor * sums.weights[row * sums.width + i] +
                             2 * kernel.bias_factor * w * sums.bias[row]);
    }
  }
}

void WriteWave(const FltBackwardArgs& args, const FltGradientSums& sums, size_t h, size_t m) {
  const FltKernel& kernel = *args.kernel;
  const FltGradientSums::OfHead& head = sums.heads[h];
  const size_t at = h * kernel.sizes.waves + m;
  double real = head.query_a[m], imaginary = -head.query_b[m];
  if (kernel.sizes.form == MaskForm::kAdditive) {
    const double a = kernel.waves.real[at], b = kernel.waves.imaginary[at];
    const double size = std::sqrt(a * a + b * b + kMagnitudeSmoothing), root = std::sqrt(size);
    const double of_root = head.query_a[m] - (head.key_a[m] * a + head.key_b[m] * b) / size;
    const double of_size = of_root / (2 * root);
    real = head.key_a[m] / root + of_size * a / size;
    imaginary = head.key_b[m] / root + of_size * b / size;
  }
  if (args.real_gradient != nullptr) args.real_gradient[at] = static_cast<float>(real);
  if (args.imaginary_gradient != nullptr) {
    args.imaginary_gradient[at] = static_cast<float>(imaginary);
  }
}

}  // namespace

FltGradientSums::FltGradientSums(const FltKernel& kernel)
    : width((FltInputCount(kernel.sizes) + 15) / 16 * 16),
      weights(kernel.projection_sets * ProjectionCount(kernel.sizes.map) * width),
      bias(kernel.projection_sets * ProjectionCount(kernel.sizes.map)),
      heads(kernel.sizes.heads) {
  for (OfHead& head : heads) {
    for (auto* sum : {&head.query_a, &head.query_b, &head.key_a, &head.key_b}) {
      sum->assign(kernel.sizes.waves, 0);
    }
    head.frequencies.assign(kernel.sizes.waves * kernel.sizes.positions, 0);
  }
}

void WriteGradients(const FltBackwardArgs& args, const FltGradientSums& sums) {
  if (args.projection_gradient != nullptr) WriteProjection(args, sums);
  const size_t waves = args.kernel->sizes.waves, l = args.kernel->sizes.positions;
  for (size_t h = 0; h < sums.heads.size(); ++h) {
    for (size_t m = 0; m < waves; ++m) WriteWave(args, sums, h, m);
    for (size_t i = 0; i < waves * l && args.frequency_gradient != nullptr; ++i) {
      args.frequency_gradient[h * waves * l + i] = static_cast<float>(
          2 * std::numbers::pi * sums.heads[h].frequencies[i % l * waves + i / l]);
    }
    if (args.constant_gradient != nullptr && waves > 0) {
      args.constant_gradient[h] = static_cast<float>(sums.heads[h].constant);
    }
  }
}

}  // namespace mnemosyne::kernels
