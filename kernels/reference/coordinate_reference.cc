#include "kernels/reference/coordinate_reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace mnemosyne::kernels::reference {
namespace {

using Row = std::vector<double>;

// Reads weights in their order.
class Weights {
 public:
  explicit Weights(const float* next) : next_(next) {}

  // The matrix [inputs, outputs] that comes next.
  const float* Take(size_t inputs, size_t outputs) {
    const float* const matrix = next_;
    next_ += inputs * outputs;
    return matrix;
  }

 private:
  const float* next_;
};

// Adds x W to y, with rows of W `stride` apart.
void Multiply(const Row& x, const float* w, size_t stride, Row& y) {
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t k = 0; k < y.size(); ++k) y[k] += x[i] * w[i * stride + k];
  }
}

void Multiply(const Row& x, const float* w, Row& y) { Multiply(x, w, y.size(), y); }

// x / sqrt(1 + |x|^2) of `width` numbers.
Row Unit(const double* x, size_t width) {
  double square = 1;
  for (size_t i = 0; i < width; ++i) square += x[i] * x[i];
  Row unit(x, x + width);
  for (double& value : unit) value /= std::sqrt(square);
  return unit;
}

Row Features(const FeatureMapSizes& map, const float* w, const float* bias, const Row& x) {
  Row projected(ProjectionCount(map)), phi;
  Multiply(x, w, PaddedColumns(projected.size()), projected);
  double half_square = 0;
  for (const double value : x) half_square += 0.5 * value * value;
  switch (map.shape) {
    case FeatureMapShape::kExponential:
      for (size_t m = 0; m < map.features; ++m) {
        const double shift = bias == nullptr ? 0 : bias[m];
        phi.push_back(map.scale * std::exp(projected[m] + shift - half_square));
      }
      break;
    case FeatureMapShape::kHyperbolic:
      for (const double sign : {1.0, -1.0}) {
        for (const double p : projected)
          phi.push_back(map.scale * std::exp(sign * p - half_square));
      }
      break;
    case FeatureMapShape::kRelu:
      for (const double p : projected) phi.push_back(map.scale * std::max(p, 0.0) + map.epsilon);
      break;
    case FeatureMapShape::kElu:
      for (const double value : x) phi.push_back(value > 0 ? value + 1 : std::exp(value));
      break;
    case FeatureMapShape::kDpfp: {
      Row rectified;
      for (const double sign : {1.0, -1.0}) {
        for (const double value : x) rectified.push_back(std::max(sign * value, 0.0));
      }
      const size_t count = rectified.size();
      for (size_t shift = 1; shift <= map.features / count; ++shift) {
        for (size_t k = 0; k < count; ++k) {
          phi.push_back(rectified[k] * rectified[(k + count - shift % count) % count]);
        }
      }
      break;
    }
  }
  return phi;
}

// Where a coordinate's numbers lie in the tiles of a memory.
class TileColumn {
 public:
  TileColumn(float* memory, const Segment& segment, size_t element, size_t numbers) {
    const size_t tile = element / kCoordinateTile * kCoordinateTile;
    width_ = std::min(kCoordinateTile, segment.count - tile);
    first_ = memory + (segment.offset + tile) * numbers + (element - tile);
  }
  float& operator[](size_t number) const { return first_[number * width_]; }

 private:
  float* first_;
  size_t width_;
};

// q^ of every coordinate of a tensor.
Row Factored(const CoordinateTensor& tensor, const Row& ratios) {
  Row factored(ratios.size(), 1);
  if (tensor.rank < 2) return factored;
  const auto count = static_cast<double>(ratios.size());
  size_t stride = ratios.size();
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    const size_t length = tensor.shape[axis];
    stride /= length;
    Row means(length);
    for (size_t i = 0; i < ratios.size(); ++i) means[i / stride % length] += ratios[i];
    for (double& mean : means) mean *= static_cast<double>(length) / count;
    for (size_t i = 0; i < ratios.size(); ++i) factored[i] *= means[i / stride % length];
  }
  return factored;
}

double Clip(double x, double limit) { return std::clamp(x, -limit, limit); }

double HalfLog(double square) { return 0.25 * Clip(std::log(square), 8); }

double Bend(double x, double low, double high) {
  return x < 0 ? -low * std::tanh(x / -low) : high * std::tanh(x / high);
}

// What is read of the coordinate's memory once the token is written to it.
Row Recall(const CoordinateStepArgs& args, const Segment& segment, size_t element, const Row& x,
           Weights& weights) {
  const CoordinateModel& model = args.model;
  const CoordinateSizes& sizes = model.sizes;
  const size_t features = sizes.map.features, width = sizes.value_width;
  Row joined(CoordinateHeadWidth(sizes));
  Multiply(x, weights.Take(x.size(), joined.size()), joined);
  Multiply({1}, weights.Take(1, joined.size()), joined);
  const Row query = Unit(joined.data(), sizes.key_width);
  const Row key = Unit(joined.data() + sizes.key_width, sizes.key_width);
  const double* const value = joined.data() + 2 * sizes.key_width;

  const TileColumn content(args.content, segment, element, CoordinateContentCount(sizes));
  const TileColumn mass(args.mass, segment, element, CoordinateMassCount(sizes));
  Row recalled;
  for (size_t head = 0; head < sizes.heads; ++head) {
    const float* const w = weights.Take(1, CoordinateProjectionCount(sizes));
    const float* const bias = sizes.map_bias ? weights.Take(1, features) : nullptr;
    const Row phi_q = Features(sizes.map, w, bias, query);
    const Row phi_k = Features(sizes.map, w, bias, key);
    const double discount = model.discounts[head];
    double below = 0;
    Row above(width);
    for (size_t m = 0; m < features; ++m) {
      const size_t row = head * features + m;
      const double psi = discount * mass[row] + phi_k[m];
      mass[row] = static_cast<float>(psi);
      below += phi_q[m] * psi;
      for (size_t k = 0; k < width; ++k) {
        const double number = discount * content[row * width + k] + phi_k[m] * value[k];
        content[row * width + k] = static_cast<float>(number);
        above[k] += phi_q[m] * number;
      }
    }
    const double denominator_min = kDenominatorMin;
    for (const double a : above) {
      recalled.push_back(std::abs(below) > denominator_min ? a / below : 0);
    }
  }
  return recalled;
}

class TensorStep {
 public:
  TensorStep(const CoordinateStepArgs& args, size_t k)
      : args_(args), segment_(args.segments[k]), tensor_(args.tensors[k]) {
    const size_t hidden = args.model.sizes.hidden;
    const auto told = args.told.subspan(k * hidden, hidden);
    told_.assign(told.begin(), told.end());
  }

  void Run() {
    gradients_.resize(segment_.count);
    for (size_t i = 0; i < segment_.count; ++i) Write(i);
    double sum = 0;
    for (size_t i = 0; i < segment_.count; ++i) sum += square(i);
    mean_ = sum / static_cast<double>(segment_.count);
    alive_ = mean_ > static_cast<double>(kCoordinateSquareMin);
    Row ratios(segment_.count);
    for (size_t i = 0; i < segment_.count; ++i) ratios[i] = square(i) / (alive_ ? mean_ : 1);
    const Row factored = Factored(tensor_, ratios);
    for (size_t i = 0; i < segment_.count; ++i) Step(i, ratios[i], factored[i]);
  }

 private:
  double square(size_t i) const { return args_.square[segment_.offset + i]; }

  // Takes in the gradient.
  void Write(size_t i) {
    const size_t at = segment_.offset + i;
    const double d = Clip(static_cast<double>(tensor_.gradient_scale) * args_.values[at],
                          kCoordinateGradientMax);
    const auto write = [&](float* mean, double value, double mass) {
      mean[at] = static_cast<float>(mean[at] + (value - mean[at]) / mass);
    };
    write(args_.fast, d, tensor_.mass_fast);
    write(args_.slow, d, tensor_.mass_slow);
    write(args_.square, d * d, tensor_.mass_square);
    gradients_[i] = d;
  }

  void Step(size_t i, double ratio, double factored) {
    const CoordinateModel& model = args_.model;
    const CoordinateKnobs& knobs = model.knobs;
    const size_t at = segment_.offset + i;
    ratio = std::clamp<double>(ratio, kCoordinateRatioMin, kCoordinateRatioMax);
    factored = std::clamp<double>(factored, kCoordinateRatioMin, kCoordinateRatioMax);
    const double d = gradients_[i], unit = alive_ ? std::sqrt(mean_) : 1;
    const double root = std::sqrt(ratio) + knobs.epsilon;
    const double adam = args_.fast[at] / unit / root, novelty = d / unit / root;
    const double shared = args_.fast[at] / unit / (std::sqrt(factored) + knobs.epsilon);
    std::array directions = {adam, novelty, args_.slow[at] / unit / root, shared};
    for (double& direction : directions) direction = Clip(direction, kCoordinateDirectionMax);

    Row x = {HalfLog(novelty * novelty), static_cast<double>((d > 0) - (d < 0))};
    for (const double direction : directions) x.push_back(0.5 * direction);
    x.push_back(Clip(novelty * adam, kCoordinateDirectionMax));
    x.push_back(alive_ ? HalfLog(ratio) : 0);
    x.push_back(alive_ ? HalfLog(factored) : 0);
    x.push_back(0.25 * args_.log_step[at]);

    Weights weights(args_.weights);
    const Row recalled = Recall(args_, segment_, i, x, weights);
    for (const double number : recalled) x.push_back(knobs.gate_cam * number);
    Row hidden = told_, decision(kCoordinateDecisionCount);
    Multiply(x, weights.Take(x.size(), hidden.size()), hidden);
    for (double& number : hidden) number = std::tanh(number);
    Multiply(hidden, weights.Take(hidden.size(), decision.size()), decision);
    Multiply({1}, weights.Take(1, decision.size()), decision);

    const double before = args_.log_step[at];
    const double target = knobs.eta_temper * Bend(2 * decision[0], knobs.eta_low, knobs.eta_high);
    const double change = knobs.eta_smoothing * (target - before);
    const double log_step = before + std::min<double>(change, knobs.eta_rise);
    double read = adam;
    for (size_t k = 0; k < directions.size(); ++k) {
      read += knobs.correction * std::tanh(decision[1 + k]) * directions[k];
    }
    args_.log_step[at] = static_cast<float>(log_step);
    args_.update[at] = static_cast<float>(-tensor_.prior_step * std::exp(log_step) * read);
  }

  const CoordinateStepArgs& args_;
  const Segment& segment_;
  const CoordinateTensor& tensor_;
  Row told_;
  Row gradients_;
  double mean_ = 0;
  bool alive_ = false;
};

}  // namespace

void CoordinateStep(const CoordinateStepArgs& args) {
  for (size_t k = 0; k < args.segments.size(); ++k) {
    if (!args.replay) TensorStep(args, k).Run();
    double square_sum = 0;
    const Segment& segment = args.segments[k];
    for (size_t i = segment.offset; i < segment.offset + segment.count; ++i) {
      args.values[i] = args.update[i];
      square_sum += static_cast<double>(args.update[i]) * args.update[i];
    }
    args.square_sums[k] = square_sum;
  }
}

}  // namespace mnemosyne::kernels::reference
