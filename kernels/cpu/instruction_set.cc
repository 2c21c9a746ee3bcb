#include "kernels/cpu/instruction_set.h"

#include "base/error.h"

namespace mnemosyne::kernels::cpu {

std::vector<const KernelTable*> SupportedKernels() {
  std::vector<const KernelTable*> supported = {&kBaselineKernels};
#if defined(__x86_64__)
  // The compiler's check also asks whether the operating system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) supported.push_back(&kAvx2Kernels);
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) {
    supported.push_back(&kAvx512Kernels);
  }
#endif
  return supported;
}

absl::StatusOr<const KernelTable*> FindKernels(std::string_view name) {
  const std::vector<const KernelTable*> supported = SupportedKernels();
  if (name == "auto") return supported.back();
  for (const KernelTable* kernels : supported) {
    if (kernels->name == name) return kernels;
  }
  if (name == "avx2" || name == "avx512") {
    return FailedPrecondition("instruction set not supported: this machine lacks {}", name);
  }
  return InvalidArgument("unknown instruction set: {}, expected auto, baseline, avx2 or avx512",
                         name);
}

}  // namespace mnemosyne::kernels::cpu
