// Whole numbers of JSON that others wrote.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

namespace mnemosyne {

// The number as a T. Throws std::out_of_range for what is no whole number, or is none of T's:
// nlohmann::json's own conversion takes 1e300 for one, and gives anything.
template <std::integral T>
T IntegerOf(const nlohmann::json& json) {
  if (json.is_number_unsigned() && std::in_range<T>(json.get<uint64_t>())) {
    return static_cast<T>(json.get<uint64_t>());
  }
  if (json.is_number_integer() && !json.is_number_unsigned() &&
      std::in_range<T>(json.get<int64_t>())) {
    return static_cast<T>(json.get<int64_t>());
  }
  throw std::out_of_range("a value is not a whole number, or too large");
}

// As IntegerOf, of each element of an array; also for what is no array.
template <std::integral T>
std::vector<T> IntegersOf(const nlohmann::json& json) {
  if (!json.is_array()) throw std::out_of_range("a value is not a list");
  std::vector<T> integers;
  integers.reserve(json.size());
  for (const auto& element : json) integers.push_back(IntegerOf<T>(element));
  return integers;
}

}  // namespace mnemosyne
