#include "kernels/cuda/flt_plan.h"

#include <algorithm>
#include <span>
#include <utility>

namespace mnemosyne::kernels::cuda {
namespace {

// Parts of all sequences together are at most those that run at a time on a large GPU.
constexpr size_t kMultiprocessors = 132;

// The fewest rows of a part of a longer sequence, and the most parts of one, which one thread goes
// through in order.
constexpr size_t kPartRows = 64, kPartsMax = 128;

constexpr size_t kSumsMax = size_t{64} << 20;  // Floats of the sums of a launch.

uint32_t Narrow(size_t x) { return static_cast<uint32_t>(x); }

// Rows of each part of a sequence of `count` rows, of a call with `all` rows.
size_t PartRows(size_t count, size_t all, size_t parts_that_fit, size_t wanted) {
  const size_t share = count * wanted / all;
  const size_t parts = std::clamp<size_t>(std::min(share, count / kPartRows), 1,
                                          std::min(kPartsMax, parts_that_fit));
  if (parts == 1) return count;
  const size_t rows = (count + parts - 1) / parts;
  return (rows + kPartRows - 1) / kPartRows * kPartRows;
}

}  // namespace

std::vector<FltLaunchPlan> PlanFlt(const FltSizes& sizes, const FltRows& rows, size_t floats,
                                   size_t at_once) {
  const size_t one[] = {0, rows.length};
  const std::span<const size_t> starts = rows.sequence_starts.empty() ? one : rows.sequence_starts;
  const size_t all = rows.batch * sizes.heads * rows.length;
  const size_t fit = std::max<size_t>(1, kSumsMax / floats);
  std::vector<FltLaunchPlan> launches;
  FltLaunchPlan launch;
  const auto add = [&](size_t batch, size_t head, size_t start, size_t end) {
    const size_t each = PartRows(end - start, all, fit, at_once * kMultiprocessors);
    const size_t count = (end - start + each - 1) / each;
    if (!launch.parts.empty() && launch.parts.size() + count > fit) {
      launches.push_back(std::exchange(launch, {}));
    }
    const size_t unit = launch.units.size();
    launch.units.push_back({Narrow(launch.parts.size()), Narrow(count)});
    for (size_t at = start; at < end; at += each) {
      launch.parts.push_back({.batch = Narrow(batch),
                              .head = Narrow(head),
                              .start = Narrow(start),
                              .first = Narrow(at),
                              .count = Narrow(std::min(each, end - at)),
                              .unit = Narrow(unit),
                              .is_last = at + each >= end});
    }
  };
  for (size_t batch = 0; batch < rows.batch; ++batch) {
    for (size_t head = 0; head < sizes.heads; ++head) {
      for (size_t s = 0; s + 1 < starts.size(); ++s) {
        if (starts[s + 1] > starts[s]) add(batch, head, starts[s], starts[s + 1]);
      }
    }
  }
  if (!launch.parts.empty()) launches.push_back(std::move(launch));
  return launches;
}

}  // namespace mnemosyne::kernels::cuda
