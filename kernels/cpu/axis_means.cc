#include "kernels/cpu/axis_means.h"

#include <algorithm>

namespace mnemosyne::kernels::cpu {
namespace {

// Parts of a tensor, each with column sums of its own: no more, so that these stay small.
constexpr size_t kPartsMax = 64;
constexpr size_t kPartElements = size_t{1} << 14;

size_t DivideUp(size_t a, size_t b) { return a / b + (a % b == 0 ? 0 : 1); }

}  // namespace

void AxisMeans::MakePlans(std::span<const Segment> segments,
                          std::span<const CoordinateTensor> tensors) {
  tensors_ = tensors;
  plans_.clear();
  parts_.clear();
  size_t row_sums = 0, column_sums = 0, profiles = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const CoordinateTensor& tensor = tensors[t];
    const size_t columns = tensor.rank < 2 ? 0 : tensor.shape[tensor.rank - 1];
    const size_t width = std::max<size_t>(columns, 1);
    const size_t rows = segments[t].count / width;
    const size_t wanted = std::clamp<size_t>(DivideUp(segments[t].count, kPartElements), 1,
                                             std::min(kPartsMax, rows));
    const size_t part_rows = DivideUp(rows, wanted);
    Plan plan = {parts_.size(), 0, columns, row_sums, column_sums, profiles, 0};
    for (size_t row = 0; row < rows; row += part_rows) {
      parts_.push_back({t, row * width, std::min(part_rows, rows - row) * width});
    }
    plan.part_count = parts_.size() - plan.first_part;
    plans_.push_back(plan);
    if (columns == 0) continue;
    row_sums += rows;
    column_sums += plan.part_count * columns;
    for (size_t axis = 0; axis < tensor.rank; ++axis) profiles += tensor.shape[axis];
  }
  totals_.assign(parts_.size(), 0);
  row_sums_.resize(row_sums);
  column_sums_.assign(column_sums, 0);
  profiles_.resize(profiles);
}

void AxisMeans::Measure(std::span<const Segment> segments,
                        std::span<const CoordinateTensor> tensors, const float* values,
                        BlockRunner& runner) {
  MakePlans(segments, tensors);
  runner.Run(parts_, [&](size_t i) { SumPart(parts_[i], i, segments[parts_[i].segment], values); });
  for (size_t t = 0; t < tensors.size(); ++t) Finish(tensors[t], segments[t].count, plans_[t]);
}

void AxisMeans::SumPart(const Block& part, size_t index, const Segment& segment,
                        const float* values) {
  const Plan& plan = plans_[part.segment];
  const float* const x = values + segment.offset + part.offset;
  if (plan.columns == 0) {
    double total = 0;
    for (size_t i = 0; i < part.count; ++i) total += static_cast<double>(x[i]);
    totals_[index] = total;
    return;
  }
  const size_t columns = plan.columns;
  double* const row_sums = row_sums_.data() + plan.row_sums + part.offset / columns;
  double* const column_sums =
      column_sums_.data() + plan.column_sums + (index - plan.first_part) * columns;
  for (size_t row = 0; row < part.count / columns; ++row) {
    double sum = 0;
    for (size_t c = 0; c < columns; ++c) {
      const auto value = static_cast<double>(x[row * columns + c]);
      column_sums[c] += value;
      sum += value;
    }
    row_sums[row] = sum;
  }
}

void AxisMeans::Finish(const CoordinateTensor& tensor, size_t count, Plan& plan) {
  const auto number = static_cast<double>(count);
  double total = 0;
  const auto add_to_total = [&](std::span<const double> sums) {
    for (const double sum : sums) total += sum;
  };
  const auto set_mean = [&] {
    const auto mean = static_cast<float>(total / number);
    plan.mean = mean > kCoordinateSquareMin ? mean : 0;
  };
  if (plan.columns == 0) {
    add_to_total(std::span(totals_).subspan(plan.first_part, plan.part_count));
    return set_mean();
  }
  const size_t rows = count / plan.columns;
  const std::span row_sums = std::span(row_sums_).subspan(plan.row_sums, rows);
  add_to_total(row_sums);
  set_mean();

  // The last axis, whose sums are there; then the others, each of the sums over those behind it.
  float* next = profiles_.data() + plan.profiles;
  for (size_t axis = 0; axis < tensor.rank; ++axis) next += tensor.shape[axis];
  const auto put = [&](std::span<const double> sums) {
    next -= sums.size();
    const double scale = plan.mean == 0 ? 0 : static_cast<double>(sums.size()) / total;
    for (size_t i = 0; i < sums.size(); ++i) next[i] = static_cast<float>(sums[i] * scale);
  };
  const std::span columns = std::span(column_sums_).subspan(plan.column_sums, plan.columns);
  for (size_t part = 1; part < plan.part_count; ++part) {
    const double* const own = columns.data() + part * plan.columns;
    for (size_t c = 0; c < plan.columns; ++c) columns[c] += own[c];
  }
  put(columns);
  std::span sums = row_sums;
  for (size_t axis = tensor.rank - 1; axis-- > 1;) {
    const size_t length = tensor.shape[axis], outer = sums.size() / length;
    rest_.assign(length, 0);
    for (size_t row = 0; row < outer; ++row) {
      double sum = 0;
      for (size_t i = 0; i < length; ++i) {
        rest_[i] += sums[row * length + i];
        sum += sums[row * length + i];
      }
      sums[row] = sum;  // Behind what is still to be read.
    }
    put(rest_);
    sums = sums.first(outer);
  }
  put(sums);
}

void AxisMeans::Factored(size_t tensor, size_t first, size_t count, float* factored) const {
  const Plan& plan = plans_[tensor];
  if (plan.columns == 0) {
    std::fill_n(factored, count, 1.0F);
    return;
  }
  const CoordinateTensor& shape = tensors_[tensor];
  const size_t last = shape.rank - 1;
  const float* profiles[kCoordinateRankMax] = {profiles_.data() + plan.profiles};
  for (size_t axis = 1; axis <= last; ++axis) {
    profiles[axis] = profiles[axis - 1] + shape.shape[axis - 1];
  }
  for (size_t i = 0; i < count;) {
    const size_t column = (first + i) % plan.columns;
    const size_t width = std::min(plan.columns - column, count - i);
    size_t place[kCoordinateRankMax], row = (first + i) / plan.columns;
    for (size_t axis = last; axis-- > 0; row /= shape.shape[axis]) {
      place[axis] = row % shape.shape[axis];
    }
    float outer = 1;
    for (size_t axis = 0; axis < last; ++axis) outer *= profiles[axis][place[axis]];
    for (size_t c = 0; c < width; ++c) factored[i + c] = outer * profiles[last][column + c];
    i += width;
  }
}

}  // namespace mnemosyne::kernels::cpu
