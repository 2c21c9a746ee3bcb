// A step of each update rule over a few segments, for tests.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/reference/reference_ops.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {

enum class Rule { kSgd, kMomentum, kFirstMomentum, kNesterov, kAdam, kLion };

inline constexpr Rule kAllRules[] = {Rule::kSgd,      Rule::kMomentum, Rule::kFirstMomentum,
                                     Rule::kNesterov, Rule::kAdam,     Rule::kLion};

inline std::ostream& operator<<(std::ostream& out, Rule rule) {
  static constexpr const char* kNames[] = {"sgd",      "momentum", "first momentum",
                                           "nesterov", "adam",     "lion"};
  return out << kNames[static_cast<size_t>(rule)];
}

// Segments of every kind: shorter than a vector, with and without a remainder, longer than a block;
// between them gaps.
inline std::vector<Segment> ExampleSegments() {
  std::vector<Segment> segments;
  size_t offset = 16;
  for (const size_t count :
       std::initializer_list<size_t>{1, 15, 16, 17, 31, 200, 16384, 16385, 40003}) {
    segments.push_back({offset, count});
    offset += (count + 15) / 16 * 16 + 16;
  }
  return segments;
}

// The memory of a step, on the host.
struct StepMemory {
  std::vector<float> values;
  std::vector<float> first;   // SGD's and Lion's momentum, Adam's first moment.
  std::vector<float> second;  // Adam's second moment.
  std::vector<uint32_t> signs;

  explicit StepMemory(std::span<const Segment> segments, uint32_t seed = 1) {
    const size_t size = (segments.back().offset + segments.back().count + 31) / 16 * 16;
    values = testing::NormalFloats(size, seed);
    first = testing::NormalFloats(size, seed + 1);
    second = testing::NormalFloats(size, seed + 2);
    for (float& v : second) v *= v;
    signs.assign(size / kSignsPerWord, 0);
    // A direction that is exactly 0.
    for (const Segment& segment : segments) values[segment.offset] = first[segment.offset] = 0;
  }

  bool operator==(const StepMemory&) const = default;
};

// Where the memory of a step lies, on any device.
struct StepPointers {
  float* values;
  float* first;
  float* second;
  uint32_t* signs;
};

inline StepPointers PointersTo(StepMemory& memory) {
  return {memory.values.data(), memory.first.data(), memory.second.data(), memory.signs.data()};
}

inline SgdCoefficients ExampleSgdCoefficients(Rule rule, size_t segment) {
  SgdCoefficients c;
  c.gradient_scale = segment % 2 == 0 ? 1.0F : -0.3F;
  c.momentum = rule == Rule::kSgd ? 0 : 0.9F;
  c.gradient_weight = 1 - 0.1F * static_cast<float>(segment);
  c.first_step = rule == Rule::kFirstMomentum;
  c.nesterov = rule == Rule::kNesterov;
  return c;
}

inline AdamCoefficients ExampleAdamCoefficients(size_t segment) {
  AdamCoefficients c;
  c.gradient_scale = segment % 2 == 0 ? 1.0F : 0.3F;
  c.beta1 = 0.9F;
  c.one_minus_beta1 = 0.1F;
  c.beta2 = 0.999F;
  c.one_minus_beta2 = 0.001F;
  c.bias_correction2_sqrt = 0.1F + 0.05F * static_cast<float>(segment);
  c.epsilon = 1e-8F;
  c.negative_step_size = -0.01F;
  return c;
}

inline LionCoefficients ExampleLionCoefficients(size_t segment) {
  LionCoefficients c;
  c.gradient_scale = segment % 2 == 0 ? 1.0F : 0.3F;
  c.beta1 = 0.9F;
  c.one_minus_beta1 = 0.1F;
  c.beta2 = 0.99F;
  c.one_minus_beta2 = 0.01F;
  return c;
}

// The reference as if it were a backend.
struct ReferenceBackend {
  static absl::Status SgdStep(const SgdStepArgs& args) {
    reference::SgdStep(args);
    return absl::OkStatus();
  }
  static absl::Status AdamStep(const AdamStepArgs& args) {
    reference::AdamStep(args);
    return absl::OkStatus();
  }
  static absl::Status LionStep(const LionStepArgs& args) {
    reference::LionStep(args);
    return absl::OkStatus();
  }
};

// Takes a step of `rule` with the coefficients above.
template <typename AnyBackend>
absl::Status TakeStep(AnyBackend& backend, Rule rule, std::span<const Segment> segments,
                      const StepPointers& memory, std::span<double> square_sums,
                      bool replay = false) {
  if (rule == Rule::kAdam) {
    std::vector<AdamCoefficients> coefficients;
    for (size_t i = 0; i < segments.size(); ++i) {
      coefficients.push_back(ExampleAdamCoefficients(i));
    }
    return backend.AdamStep(
        {segments, coefficients, memory.values, memory.first, memory.second, square_sums, replay});
  }
  if (rule == Rule::kLion) {
    std::vector<LionCoefficients> coefficients;
    for (size_t i = 0; i < segments.size(); ++i) {
      coefficients.push_back(ExampleLionCoefficients(i));
    }
    return backend.LionStep(
        {segments, coefficients, memory.values, memory.first, memory.signs, square_sums, replay});
  }
  std::vector<SgdCoefficients> coefficients;
  for (size_t i = 0; i < segments.size(); ++i) {
    coefficients.push_back(ExampleSgdCoefficients(rule, i));
  }
  return backend.SgdStep(
      {segments, coefficients, memory.values, memory.first, square_sums, replay});
}

}  // namespace mnemosyne::kernels
