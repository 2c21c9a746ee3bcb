// A step of the coordinate-wise optimizer, for tests of its op.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/coordinate_step.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {

inline CoordinateSizes MakeCoordinateSizes(size_t key, size_t value, size_t heads, size_t hidden,
                                           FeatureMapShape shape, size_t features,
                                           bool bias = false) {
  return {.key_width = key,
          .value_width = value,
          .heads = heads,
          .map = {shape, key, features, 0.5F, 0.01F},
          .map_bias = bias,
          .hidden = hidden};
}

inline const CoordinateSizes kUsualCoordinateSizes =
    MakeCoordinateSizes(4, 4, 2, 24, FeatureMapShape::kExponential, 4);
inline const CoordinateSizes kAllCoordinateSizes[] = {
    kUsualCoordinateSizes,
    MakeCoordinateSizes(3, 5, 1, 7, FeatureMapShape::kExponential, 6, true),
    MakeCoordinateSizes(1, 1, 1, 1, FeatureMapShape::kRelu, 1),
    MakeCoordinateSizes(32, 32, 8, 64, FeatureMapShape::kRelu, 32),
    MakeCoordinateSizes(2, 3, 3, 17, FeatureMapShape::kHyperbolic, 6),
    MakeCoordinateSizes(5, 2, 2, 9, FeatureMapShape::kElu, 5),
    MakeCoordinateSizes(2, 4, 2, 24, FeatureMapShape::kDpfp, 12),
};

inline std::string Describe(const CoordinateSizes& sizes) {
  return fmt::format("map {}, {} heads, {} hidden", static_cast<int>(sizes.map.shape), sizes.heads,
                     sizes.hidden);
}

// A step with all that it needs, on the host.
struct CoordinateExample {
  CoordinateModel model;
  std::vector<Segment> segments;
  std::vector<CoordinateTensor> tensors;
  std::vector<float> told, weights;
  std::vector<float> values, fast, slow, square, log_step, update, content, mass;
  std::vector<double> sums;

  // Tensors shorter than a tile, with and without a rest, with axes of length 1, and longer than a
  // block; between them gaps.
  explicit CoordinateExample(const CoordinateSizes& sizes, bool large = false) {
    model.sizes = sizes;
    model.knobs = {.gate_cam = 0.9F,
                   .correction = 0.8F,
                   .eta_rise = 0.05F,
                   .eta_smoothing = 0.2F,
                   .eta_low = -8,
                   .eta_high = 2,
                   .eta_temper = 0.7F,
                   .epsilon = 1e-5F};
    for (size_t head = 0; head < sizes.heads; ++head) {
      model.discounts[head] = 1 - 0.3F / static_cast<float>(1 + head);
    }
    size_t offset = 5;
    std::vector<std::vector<size_t>> shapes = {
        {}, {1}, {15}, {16}, {33}, {1, 1}, {17, 9}, {1, 40}, {40, 1}, {3, 4, 5}, {3, 1, 2, 7, 2}};
    if (large) shapes.insert(shapes.end(), {{40000}, {300, 130}, {4, 40, 30, 20}});
    for (const std::vector<size_t>& shape : shapes) {
      CoordinateTensor tensor;
      size_t count = 1;
      for (const size_t length : shape) {
        tensor.shape[tensor.rank++] = length;
        count *= length;
      }
      const auto k = static_cast<float>(segments.size());
      tensor.gradient_scale = segments.size() % 2 == 0 ? 1.0F : -0.3F;
      tensor.mass_fast = 1 + 0.5F * k;
      tensor.mass_slow = 2 + k;
      tensor.mass_square = 2 + 3 * k;
      tensor.prior_step = 0.01F;
      tensors.push_back(tensor);
      segments.push_back({offset, count});
      offset += count + 7;
    }
    sums.assign(segments.size(), -1);
    told = testing::NormalFloats(segments.size() * sizes.hidden, 1);
    weights = testing::NormalFloats(CoordinateWeightCount(sizes), 2);
    const float scale = 1 / std::sqrt(static_cast<float>(CoordinateInputCount(sizes)));
    for (float& weight : weights) weight *= scale;
    values = testing::NormalFloats(offset, 3);
    // Sizes from 1e-6 to 1.
    for (size_t i = 0; i < offset; ++i) values[i] *= std::pow(10.0F, -static_cast<float>(i % 7));
    fast = testing::NormalFloats(offset, 4);
    slow = testing::NormalFloats(offset, 5);
    square = testing::NormalFloats(offset, 6);
    for (size_t i = 0; i < offset; ++i) square[i] = square[i] * square[i] + fast[i] * fast[i];
    log_step = testing::NormalFloats(offset, 7);
    update = testing::NormalFloats(offset, 8);
    content = testing::NormalFloats(offset * CoordinateContentCount(sizes), 9);
    mass = testing::NormalFloats(offset * CoordinateMassCount(sizes), 10);
    for (float& number : mass) number = std::abs(number) + 0.1F;
  }

  CoordinateStepArgs Args(bool replay = false) {
    return {segments,      tensors,        told,        model,         weights.data(),
            values.data(), fast.data(),    slow.data(), square.data(), log_step.data(),
            update.data(), content.data(), mass.data(), sums,          replay};
  }

  // What a step may change.
  std::vector<std::vector<float>> Memory() const {
    return {values, fast, slow, square, log_step, update, content, mass};
  }
};

inline void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                       double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double scale = std::max(1.0, std::abs(static_cast<double>(expected[i])));
    ASSERT_NEAR(actual[i], expected[i], tolerance * scale) << "element " << i;
  }
}

}  // namespace mnemosyne::kernels
