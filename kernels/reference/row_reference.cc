#include "kernels/reference/row_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mnemosyne::kernels::reference {
namespace {

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kNone:
      break;
  }
  return x;
}

double DivideOrZero(double above, double below) {
  return std::abs(below) > kDenominatorMin ? above / below : 0;
}

// The exponents or products x W of one row.
std::vector<double> Project(const FeatureMapArgs& args, const float* x) {
  const size_t count = ProjectionCount(args.sizes);
  std::vector<double> projected(count);
  for (size_t column = 0; column < count; ++column) {
    for (size_t i = 0; i < args.sizes.inputs; ++i) {
      projected[column] += static_cast<double>(x[i]) * args.weights[i * count + column];
    }
  }
  return projected;
}

std::vector<double> Features(const FeatureMapArgs& args, const float* x) {
  const FeatureMapSizes& sizes = args.sizes;
  const double scale = sizes.scale;
  const std::vector<double> projected = Project(args, x);
  std::vector<double> phi;
  double half_square = 0;
  for (size_t i = 0; i < sizes.inputs; ++i) half_square += 0.5 * static_cast<double>(x[i]) * x[i];
  switch (sizes.shape) {
    case FeatureMapShape::kExponential:
      for (size_t k = 0; k < sizes.features; ++k) {
        const double bias = args.bias == nullptr ? 0 : args.bias[k];
        phi.push_back(scale * std::exp(projected[k] + bias - half_square));
      }
      break;
    case FeatureMapShape::kHyperbolic:
      for (const double sign : {1.0, -1.0}) {
        for (const double p : projected) phi.push_back(scale * std::exp(sign * p - half_square));
      }
      break;
    case FeatureMapShape::kRelu:
      for (const double p : projected) phi.push_back(scale * std::max(p, 0.0) + sizes.epsilon);
      break;
    case FeatureMapShape::kElu:
      for (size_t i = 0; i < sizes.inputs; ++i) {
        phi.push_back(x[i] > 0 ? static_cast<double>(x[i]) + 1 : std::exp(x[i]));
      }
      break;
    case FeatureMapShape::kDpfp: {
      const size_t count = 2 * sizes.inputs;
      std::vector<double> rectified;
      for (size_t i = 0; i < sizes.inputs; ++i) rectified.push_back(std::max(x[i], 0.0F));
      for (size_t i = 0; i < sizes.inputs; ++i) rectified.push_back(std::max(-x[i], 0.0F));
      for (size_t shift = 1; shift <= sizes.features / count; ++shift) {
        for (size_t k = 0; k < count; ++k) {
          phi.push_back(rectified[k] * rectified[(k + count - shift % count) % count]);
        }
      }
      break;
    }
  }
  return phi;
}

// Calls step(b, content, phi_q, phi_k, value, discount, out) for each step of each memory, with
// content [M * D] in double.
template <typename Step>
void ForEachStep(const MemoryArgs& args, Step step) {
  const size_t features = args.sizes.features, width = args.sizes.width;
  for (size_t b = 0; b < args.memories; ++b) {
    float* const stored = args.content + b * features * width;
    std::vector<double> content(stored, stored + features * width);
    for (size_t t = 0; t < args.steps; ++t) {
      const size_t row = b * args.steps + t;
      step(row, content, args.phi_q + row * features, args.phi_k + row * features,
           args.values + (b / args.heads * args.steps + t) * width,
           static_cast<double>(args.discounts[b % args.heads]), args.out + row * width);
    }
    for (size_t i = 0; i < content.size(); ++i) stored[i] = static_cast<float>(content[i]);
  }
}

// Features divided by their sum.
std::vector<double> Normalized(const float* phi, size_t count) {
  double sum = 0;
  for (size_t m = 0; m < count; ++m) sum += phi[m];
  std::vector<double> result;
  for (size_t m = 0; m < count; ++m) result.push_back(DivideOrZero(phi[m], sum));
  return result;
}

}  // namespace

void DenseLayer(const DenseLayerArgs& args) {
  const DenseSizes& sizes = args.sizes;
  for (size_t row = 0; row < args.rows; ++row) {
    const float* const x = args.x.data + row * args.x.stride;
    float* const y = args.y.data + row * args.y.stride;
    for (size_t column = 0; column < sizes.outputs; ++column) {
      double sum = args.bias == nullptr ? 0 : args.bias[column];
      if (sizes.accumulate) sum = y[column];
      for (size_t i = 0; i < sizes.inputs; ++i) {
        sum += static_cast<double>(x[i]) * args.weights[i * sizes.outputs + column];
      }
      y[column] = static_cast<float>(sizes.accumulate ? sum : Activate(sizes.activation, sum));
    }
  }
}

void FeatureMap(const FeatureMapArgs& args) {
  for (size_t row = 0; row < args.rows; ++row) {
    const std::vector<double> phi = Features(args, args.x.data + row * args.x.stride);
    for (size_t k = 0; k < phi.size(); ++k) {
      args.phi.data[row * args.phi.stride + k] = static_cast<float>(phi[k]);
    }
  }
}

void BidirectionalAttention(const BidirectionalAttentionArgs& args) {
  const size_t features = args.sizes.features, width = args.sizes.width;
  for (size_t group = 0; group + 1 < args.group_starts.size(); ++group) {
    const size_t first = args.group_starts[group], end = args.group_starts[group + 1];
    std::vector<double> content(features * width), normalizer(features);
    for (size_t j = first; j < end; ++j) {
      const double weight = args.row_weights == nullptr ? 1 : args.row_weights[j];
      for (size_t m = 0; m < features; ++m) {
        const double key = weight * args.phi_k.data[j * args.phi_k.stride + m];
        normalizer[m] += key;
        for (size_t d = 0; d < width; ++d) {
          content[m * width + d] += key * args.values.data[j * args.values.stride + d];
        }
      }
    }
    for (size_t i = first; i < end; ++i) {
      const float* const query = args.phi_q.data + i * args.phi_q.stride;
      double below = 0;
      for (size_t m = 0; m < features; ++m) below += query[m] * normalizer[m];
      for (size_t d = 0; d < width; ++d) {
        double above = 0;
        for (size_t m = 0; m < features; ++m) above += query[m] * content[m * width + d];
        args.out.data[i * args.out.stride + d] = static_cast<float>(DivideOrZero(above, below));
      }
    }
  }
}

void AdditiveMemory(const AdditiveMemoryArgs& args) {
  const size_t features = args.memory.sizes.features, width = args.memory.sizes.width;
  std::vector<double> normalizer(features);
  ForEachStep(args.memory,
              [&](size_t row, std::vector<double>& content, const float* phi_q, const float* phi_k,
                  const float* value, double discount, float* out) {
                float* const stored = args.normalizer + row / args.memory.steps * features;
                if (row % args.memory.steps == 0) normalizer.assign(stored, stored + features);
                double below = 0;
                std::vector<double> above(width);
                for (size_t m = 0; m < features; ++m) {
                  normalizer[m] = discount * normalizer[m] + phi_k[m];
                  below += phi_q[m] * normalizer[m];
                  for (size_t d = 0; d < width; ++d) {
                    double& number = content[m * width + d];
                    number = discount * number + static_cast<double>(phi_k[m]) * value[d];
                    above[d] += phi_q[m] * number;
                  }
                  stored[m] = static_cast<float>(normalizer[m]);
                }
                for (size_t d = 0; d < width; ++d)
                  out[d] = static_cast<float>(DivideOrZero(above[d], below));
              });
}

void DeltaMemory(const DeltaMemoryArgs& args) {
  const size_t features = args.memory.sizes.features, width = args.memory.sizes.width;
  ForEachStep(args.memory,
              [&](size_t row, std::vector<double>& content, const float* phi_q, const float* phi_k,
                  const float* value, double discount, float* out) {
                const std::vector<double> key = Normalized(phi_k, features);
                const std::vector<double> query = Normalized(phi_q, features);
                for (double& number : content) number *= discount;
                for (size_t d = 0; d < width; ++d) {
                  double old = 0;
                  for (size_t m = 0; m < features; ++m) old += key[m] * content[m * width + d];
                  const double change = args.betas[row] * (value[d] - old);
                  double read = 0;
                  for (size_t m = 0; m < features; ++m) {
                    content[m * width + d] += key[m] * change;
                    read += query[m] * content[m * width + d];
                  }
                  out[d] = static_cast<float>(read);
                }
              });
}

}  // namespace mnemosyne::kernels::reference
