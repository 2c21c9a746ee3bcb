// What the kernels of the coordinate-wise optimizer are told of a session: plain structs, built for
// each step.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/coordinate_sizes.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels::cuda {

// The arenas and weights of CoordinateStepArgs, on a device.
struct CoordinateArrays {
  const float* weights;
  float* values;
  float* fast;
  float* slow;
  float* square;
  float* log_step;
  float* update;
  float* content;
  float* mass;
};

// Means of s / S over all axes of a tensor but one: `count` means from `first` on in the array of
// all means.
struct CoordinateAxis {
  uint32_t segment;
  uint32_t first;  // Of its means.
  size_t length;   // Of the axis, and count of means.
  size_t stride;   // Elements from an index to the next.
};

// Means of neighbouring indices of an axis, for one block of threads.
struct CoordinateMeans {
  uint32_t axis;
  uint32_t first;  // Index.
  uint32_t count;  // Indices: count * stride is at most kCoordinateRow if it is above 1.
};

// Elements in a row that are read together where an axis has short strides.
inline constexpr size_t kCoordinateRow = 64;

// A tensor's place in the arenas and among the axes.
struct CoordinatePlace {
  Segment segment;
  uint32_t first_axis, axis_count;  // None with fewer than two axes.
};

// What a step is told, and where it leaves its numbers: all on the device.
struct CoordinateTables {
  const Block* blocks;              // [block_count]
  const uint32_t* first_blocks;     // [segment_count + 1]
  const CoordinateTensor* tensors;  // [segment_count]
  const CoordinatePlace* places;    // [segment_count]
  const float* told;                // [segment_count, H]
  const CoordinateAxis* axes;
  const CoordinateMeans* axis_blocks;  // [axis_block_count]
  float* axis_means;                   // Of all axes.
  float* means;                        // [segment_count]: of s.
  double* square_sums;                 // [block_count]
  size_t block_count;
  size_t segment_count;
  size_t axis_block_count;
};

}  // namespace mnemosyne::kernels::cuda
