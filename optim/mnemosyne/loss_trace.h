// What a session has been told of its loss, and what a step tells all chunks: clock, loss and
// progress. metatrain's conditions.py is the specification.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace mnemosyne::optim {

// What the client told of a step.
struct ToldInputs {
  std::optional<double> loss;      // Need not be finite; one that is not counts as not told.
  std::optional<double> progress;  // Share of the whole run that is over, in [0, 1].
};

// Means of the log loss over three spans. Part of the state; plain numbers.
struct LossTrace {
  static constexpr size_t kSpans = 3;

  std::array<double, kSpans> sums = {};
  std::array<double, kSpans> mass = {};  // How much of each span has been seen, in [0, 1).

  // Adds the loss of a step, if it is told and finite.
  void Add(const ToldInputs& inputs);

  // 0 where nothing was told.
  std::array<double, kSpans> Means() const;
};

inline constexpr size_t kSharedFeatureCount = 8;

// Features of the clock, the loss and the progress, which all chunks of a parameter share. `trace`
// already holds this step's loss; `age` is at least 1.
std::array<float, kSharedFeatureCount> SharedFeatures(const LossTrace& trace,
                                                      const ToldInputs& inputs, double age);

}  // namespace mnemosyne::optim
