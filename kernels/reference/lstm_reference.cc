#include "kernels/reference/lstm_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mnemosyne::kernels::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Reads weights in their order.
class Weights {
 public:
  explicit Weights(const float* next) : next_(next) {}
  double Next() { return *next_++; }

 private:
  const float* next_;
};

// Where an element's numbers lie in the tiles of a state.
class TileColumn {
 public:
  TileColumn(float* state, const Segment& segment, size_t element, size_t numbers) {
    const size_t tile = element / kLstmTile * kLstmTile;
    width_ = std::min(kLstmTile, segment.count - tile);
    first_ = state + (segment.offset + tile) * numbers + (element - tile);
  }
  float& operator[](size_t number) const { return first_[number * width_]; }

 private:
  float* first_;
  size_t width_;
};

// The features of an element; advances its means.
std::vector<double> Features(const LstmStepArgs& args, const LstmCoefficients& c, size_t i,
                             Weights& weights) {
  const double scaled = static_cast<double>(c.gradient_scale) * args.values[i];
  const double limit = kLstmGradientMax;
  const double d = std::clamp(scaled, -limit, limit);
  if (!args.sizes.normalized) {
    const double size = std::abs(d);
    if (size < std::exp(-kLstmLogSpan)) return {-1, std::exp(kLstmLogSpan) * d};
    return {std::log(size) / kLstmLogSpan, d > 0 ? 1.0 : -1.0};
  }
  const double mass = c.mass;
  args.mean[i] = static_cast<float>(args.mean[i] + (d - args.mean[i]) / mass);
  args.square[i] = static_cast<float>(args.square[i] + (d * d - args.square[i]) / mass);
  const double root = std::sqrt(static_cast<double>(args.square[i])) + kLstmRootEpsilon;
  const double first = d / root, second = args.mean[i] / root;
  std::vector<double> x;
  for (size_t unit = 0; unit < args.sizes.hidden; ++unit) {
    double sum = weights.Next() * first;
    sum += weights.Next() * second;
    sum += weights.Next();
    x.push_back(sum > 0 ? sum : std::expm1(sum));
  }
  return x;
}

// One layer of an element: what it gives.
std::vector<double> Layer(const LstmSizes& sizes, size_t layer, std::vector<double> x,
                          const TileColumn& hidden, const TileColumn& cell, Weights& weights) {
  const size_t base = layer * sizes.hidden;
  for (size_t unit = 0; unit < sizes.hidden; ++unit) x.push_back(hidden[base + unit]);
  std::vector<double> result;
  for (size_t unit = 0; unit < sizes.hidden; ++unit) {
    double gates[4];
    for (double& gate : gates) gate = weights.Next();
    for (const double input : x) {
      for (double& gate : gates) gate += weights.Next() * input;
    }
    const double memory =
        Sigmoid(gates[1]) * cell[base + unit] + Sigmoid(gates[0]) * std::tanh(gates[3]);
    cell[base + unit] = static_cast<float>(memory);
    result.push_back(Sigmoid(gates[2]) * std::tanh(memory));
  }
  for (size_t unit = 0; unit < sizes.hidden; ++unit) {
    hidden[base + unit] = static_cast<float>(result[unit]);
    result[unit] = hidden[base + unit];  // What a replay finds.
  }
  return result;
}

}  // namespace

void LstmStep(const LstmStepArgs& args) {
  const LstmSizes& sizes = args.sizes;
  const size_t numbers = LstmStateCount(sizes);
  for (size_t k = 0; k < args.segments.size(); ++k) {
    const Segment& segment = args.segments[k];
    double square_sum = 0;
    for (size_t element = 0; element < segment.count; ++element) {
      const size_t i = segment.offset + element;
      const TileColumn hidden(args.hidden, segment, element, numbers);
      const TileColumn cell(args.cell, segment, element, numbers);
      Weights weights(args.weights);
      std::vector<double> x;
      if (args.replay) {
        weights = Weights(args.weights + LstmWeightCount(sizes) - sizes.hidden - 1);
        for (size_t u = 0; u < sizes.hidden; ++u) x.push_back(hidden[numbers - sizes.hidden + u]);
      } else {
        x = Features(args, args.coefficients[k], i, weights);
        for (size_t layer = 0; layer < sizes.layers; ++layer) {
          x = Layer(sizes, layer, std::move(x), hidden, cell, weights);
        }
      }
      double out = 0;
      for (const double number : x) out += weights.Next() * number;
      out += weights.Next();
      if (sizes.normalized) out = std::tanh(out);
      args.values[i] = static_cast<float>(-args.coefficients[k].output_scale * out);
      square_sum += static_cast<double>(args.values[i]) * args.values[i];
    }
    args.square_sums[k] = square_sum;
  }
}

}  // namespace mnemosyne::kernels::reference
