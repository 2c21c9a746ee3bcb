// The order of versions such as `0.9.1` and `0.10.0`.
#pragma once

#include <string_view>

namespace mnemosyne::optim {

// Whether `a` is older than `b`. Versions are compared part by part: runs of digits as numbers, all
// else as text; where one begins the other, the shorter is the older. Two different texts may stand
// for the same numbers (`1` and `01`): then the order is that of the texts.
bool IsOlderVersion(std::string_view a, std::string_view b);

}  // namespace mnemosyne::optim
