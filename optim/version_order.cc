#include "optim/version_order.h"

#include <compare>

namespace mnemosyne::optim {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Takes the run of digits, or of all else, that `text` begins with.
std::string_view TakeRun(std::string_view& text) {
  size_t size = 0;
  while (size < text.size() && IsDigit(text[size]) == IsDigit(text[0])) ++size;
  const std::string_view run = text.substr(0, size);
  text.remove_prefix(size);
  return run;
}

std::string_view WithoutZeros(std::string_view digits) {
  while (digits.size() > 1 && digits[0] == '0') digits.remove_prefix(1);
  return digits;
}

std::strong_ordering CompareRuns(std::string_view a, std::string_view b) {
  if (!IsDigit(a[0]) || !IsDigit(b[0])) return a <=> b;
  a = WithoutZeros(a);
  b = WithoutZeros(b);
  return a.size() != b.size() ? a.size() <=> b.size() : a <=> b;
}

}  // namespace

bool IsOlderVersion(std::string_view a, std::string_view b) {
  std::string_view rest_a = a, rest_b = b;
  while (!rest_a.empty() && !rest_b.empty()) {
    const std::strong_ordering order = CompareRuns(TakeRun(rest_a), TakeRun(rest_b));
    if (order != 0) return order < 0;
  }
  if (rest_a.empty() != rest_b.empty()) return rest_a.empty();
  return a < b;
}

}  // namespace mnemosyne::optim
