// What the threads of the coordinate-wise optimizer's CUDA kernels do, run on the CPU.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/coordinate_element.h"
#include "kernels/reference/coordinate_reference.h"
#include "tests/kernels/coordinate_example.h"

namespace mnemosyne::kernels::cuda {
namespace {

// One tensor after the other, as the kernels take it.
template <bool kShipped>
void RunThreads(const CoordinateStepArgs& args) {
  const CoordinateArrays arrays = {args.weights,  args.values, args.fast,    args.slow, args.square,
                                   args.log_step, args.update, args.content, args.mass};
  for (size_t k = 0; k < args.segments.size(); ++k) {
    const Segment& segment = args.segments[k];
    const CoordinateTensor& tensor = args.tensors[k];
    double sum = 0;
    for (size_t i = 0; i < segment.count; ++i) {
      sum += static_cast<double>(WriteCoordinate(tensor, arrays, segment.offset + i));
    }
    const auto mean = static_cast<float>(sum / static_cast<double>(segment.count));
    const float unit = mean > kCoordinateSquareMin ? mean : 1.0F;

    std::vector<CoordinateAxis> axes;
    std::vector<float> means;
    size_t stride = segment.count;
    for (size_t axis = 0; tensor.rank >= 2 && axis < tensor.rank; ++axis) {
      stride /= tensor.shape[axis];
      axes.push_back({0, static_cast<uint32_t>(means.size()), tensor.shape[axis], stride});
      const size_t others = segment.count / tensor.shape[axis];
      for (size_t index = 0; index < tensor.shape[axis]; ++index) {
        double total = 0;
        for (size_t i = 0; i < others; ++i) {
          const size_t at = segment.offset + AxisElement(axes.back(), index, i);
          total += static_cast<double>(args.square[at] / unit);
        }
        means.push_back(static_cast<float>(total / static_cast<double>(others)));
      }
    }
    const CoordinatePlace place = {segment, 0, static_cast<uint32_t>(axes.size())};
    for (size_t i = 0; i < segment.count; ++i) {
      DecideCoordinate<kShipped>(args.model, tensor, arrays, segment, i, mean,
                                 FactoredRatio(place, axes.data(), means.data(), i),
                                 args.told.data() + k * args.model.sizes.hidden);
    }
  }
}

TEST(CoordinateProgramTest, HasTheNumbersOfTheReference) {
  for (const CoordinateSizes& sizes : kAllCoordinateSizes) {
    SCOPED_TRACE(Describe(sizes));
    CoordinateExample actual(sizes), expected(sizes);
    reference::CoordinateStep(expected.Args());

    AreShipped(sizes) ? RunThreads<true>(actual.Args()) : RunThreads<false>(actual.Args());

    ExpectNear(actual.fast, expected.fast, 1e-6);
    ExpectNear(actual.slow, expected.slow, 1e-6);
    ExpectNear(actual.square, expected.square, 1e-6);
    ExpectNear(actual.content, expected.content, 5e-6);
    ExpectNear(actual.mass, expected.mass, 5e-6);
    ExpectNear(actual.log_step, expected.log_step, 5e-6);
    ExpectNear(actual.update, expected.update, 2e-6);
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::cuda
