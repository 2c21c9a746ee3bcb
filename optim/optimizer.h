// The seam between sessions and update rules: what an optimizer is.
//
// An optimizer works on flat arenas of float32 with the layout of the session's parameters. A step
// reads the gradients and leaves the updates in their place, so that a session needs one staging
// buffer. The client then applies, for each parameter, p <- (1 - decay) p + scale * update.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/data_type.h"
#include "optim/hyperparameters.h"
#include "optim/parameter_spec.h"
#include "optim/step_plan.h"

namespace mnemosyne::optim {

// What an optimizer is, for people and for checks.
struct OptimizerInfo {
  std::string_view name;     // Such as `adamw`.
  std::string_view version;  // Such as `1`.
  std::string_view description;
  std::span<const HyperparameterSpec> hyperparameters;  // Has `learning_rate`.
  double state_bytes_per_element;
  std::string_view weights_hash = {};  // SHA-256 in hexadecimal; empty for one without weights.
  bool has_half_state = false;         // Whether it serves StatePrecision::kHalf.
};

// One tensor of a state: a part of the memory that the state owns.
struct StateTensor {
  std::string_view slot;  // Such as `exp_avg`.
  size_t parameter;       // Position in the layout.
  std::vector<int64_t> shape;
  DataType data_type;
  std::byte* data;  // On the backend's device, or of its AllocateHost.
  size_t byte_count;
};

// How the client adds an update.
struct UpdateRule {
  double decay = 0;
  double scale = 1;
};

// What the guard of an optimizer has done since the session began.
struct GuardReport {
  double level = 0;           // How much it holds back now, in [0, 1].
  int64_t trips = 0;          // How often a loss crossed its wire.
  int64_t capped_chunks = 0;  // Chunks of parameters whose update was capped.
};

// What the last Update has decided beside the updates.
struct StepNotes {
  std::vector<UpdateRule> rules;     // [parameters], in place of Rule; empty if that says all.
  std::optional<GuardReport> guard;  // Of an optimizer that has one.
};

// What a session keeps between steps. Owned by its Session; touched on the executor's thread only.
class OptimizerState {
 public:
  virtual ~OptimizerState() = default;

  // All tensors, in an order that depends on the layout alone: the one list for saving, loading and
  // counting. Valid as long as the state.
  virtual std::vector<StateTensor> Tensors() const = 0;

  // Of the last Update; not part of what is saved.
  virtual const StepNotes& notes() const {
    static const StepNotes kNone;
    return kNone;
  }
};

// An update rule with its weights on one backend.
//
// Thread-safety: as its Backend, one thread; info() and StateBytes() any thread.
// Deterministic: the same state, plan and gradients give the same bits on the same backend.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  virtual const OptimizerInfo& info() const = 0;

  // Bytes of state that Init will allocate for `layout`.
  virtual size_t StateBytes(const ParameterLayout& layout) const = 0;

  // Makes the state before step 1. `layout` outlives the state. ResourceExhausted if the device has
  // no room.
  virtual absl::StatusOr<std::unique_ptr<OptimizerState>> Init(const ParameterLayout& layout) = 0;

  // Takes the step of `plan`: reads gradients from `values` [layout.arena_size()] on the device,
  // advances `state`, and leaves updates in `values`. A parameter that does not take part gets an
  // update of zeros. Writes the sum of squares of each parameter's update, scale included, to
  // `square_sums` [parameters] on the host, within 1e-7 of itself; of a learned optimizer on a GPU
  // numbers below 1e-19 count as zeros there. Gradients of parameters that take part are finite.
  // On an error `state` must no longer be used.
  virtual absl::Status Update(OptimizerState& state, const StepPlan& plan, float* values,
                              std::span<double> square_sums) = 0;

  // A session's part of a step that several take together.
  struct SharedStep {
    OptimizerState& state;
    const StepPlan& plan;
    float* values;
    std::span<double> square_sums;
    absl::Status status;  // What Update would have said.
  };

  // Update for several states, no two of which are the same, in one launch where the device and the
  // rule have such. Each gets the bits and the status that it would get alone.
  virtual void UpdateMany(std::span<SharedStep> steps) {
    for (SharedStep& step : steps) {
      step.status = Update(step.state, step.plan, step.values, step.square_sums);
    }
  }

  // Answers a resend: as Update, with the state after the step and the plan and gradients of the
  // step, gives the same bits in `values` and `square_sums`, and leaves the state alone.
  virtual absl::Status Replay(const OptimizerState& state, const StepPlan& plan, float* values,
                              std::span<double> square_sums) = 0;

  // How the client adds the updates of a group in the step of `plan`.
  virtual UpdateRule Rule(const GroupStep& group) const = 0;
};

}  // namespace mnemosyne::optim
