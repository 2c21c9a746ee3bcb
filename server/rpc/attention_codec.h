// Kernels of attention as they travel, and as the op takes them.
#pragma once

#include "absl/status/statusor.h"
#include "base/data_type.h"
#include "kernels/flt/rpe.h"
#include "mnemosyne/v1/attention_service.pb.h"

namespace mnemosyne::server {

// Makes the kernel: draws what is not given. It takes some milliseconds. InvalidArgument says what
// is wrong.
absl::StatusOr<kernels::FltKernel> FromProto(const v1::AttentionKernel& kernel);

// The type of a kernel's tensors. InvalidArgument for one that they cannot have.
absl::StatusOr<DataType> TensorType(const v1::AttentionKernel& kernel);

// What ListKernels answers, but for the device.
v1::ListKernelsResponse DescribeKernels();

}  // namespace mnemosyne::server
