// Means of a tensor's numbers over all axes but one, for each axis: what a factored second moment
// is made of.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/coordinate_sizes.h"
#include "kernels/cpu/block_runner.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels::cpu {

// Sums are formed in float64, in an order that the shapes alone decide.
//
// Thread-safety: Measure as BlockRunner::Run; the others any thread.
class AxisMeans {
 public:
  // Takes in `values`, an arena. `segments` and `tensors` are as in CoordinateStepArgs and outlive
  // this object's use.
  void Measure(std::span<const Segment> segments, std::span<const CoordinateTensor> tensors,
               const float* values, BlockRunner& runner);

  // The mean over a tensor; 0 if it is at most kCoordinateSquareMin.
  float mean(size_t tensor) const { return plans_[tensor].mean; }

  // Writes for coordinates `first` to `first + count - 1` of a tensor the product over its axes of
  // the mean over all other axes, each over the tensor's mean. 1 for fewer than two axes.
  void Factored(size_t tensor, size_t first, size_t count, float* factored) const;

 private:
  struct Plan {
    size_t first_part;   // In parts_.
    size_t part_count;   //
    size_t columns;      // Length of the last axis; 0 with fewer than two axes.
    size_t row_sums;     // Where its row sums start in row_sums_,
    size_t column_sums;  // those of columns, of each part, in column_sums_,
    size_t profiles;     // and the means of its axes, one behind the other, in profiles_.
    float mean;
  };

  void MakePlans(std::span<const Segment> segments, std::span<const CoordinateTensor> tensors);
  void SumPart(const Block& part, size_t index, const Segment& segment, const float* values);
  void Finish(const CoordinateTensor& tensor, size_t count, Plan& plan);

  std::span<const CoordinateTensor> tensors_;
  std::vector<Plan> plans_;     // [tensors]
  std::vector<Block> parts_;    // Whole rows, or runs of a vector.
  std::vector<double> totals_;  // [parts]: of vectors.
  std::vector<double> row_sums_;
  std::vector<double> column_sums_;
  std::vector<double> rest_;  // Workspace: sums over the axes that are done.
  std::vector<float> profiles_;
};

}  // namespace mnemosyne::kernels::cpu
