// Kernel names that are equal in the extension's build and in ours.
#include <regex>
#include <string>

#include "cuda/cudart.h"

namespace cudacpu {
namespace {

// Names in anonymous namespaces contain a module id made of hashes and a process id, which differ
// between the extension's build and ours. `id_length` gets the length of the id that starts at
// `text`, and the result is what is the same in both: the kind of id and the source file's name.
std::string stable_module_id(const std::string& text, size_t id_length) {
  static const std::regex id("(_GLOBAL__N__|_INTERNAL_)[0-9a-f]{8}_([0-9]+)_(.*)");
  std::smatch match;
  const std::string candidate = text.substr(0, id_length);
  if (candidate.size() < id_length || !std::regex_match(candidate, match, id)) return "";
  const size_t name_length = std::stoul(match[2]);
  return match[3].length() < std::ptrdiff_t(name_length)
             ? ""
             : match[1].str() + match[3].str().substr(0, name_length);
}

}  // namespace

// A mangled name with its module ids replaced by stable ones. In a mangled name the decimal length
// of an identifier precedes it; digits before those may belong to the previous identifier.
std::string comparable(const std::string& name) {
  static const std::regex start("([0-9]+)(_GLOBAL__N__|_INTERNAL_)");
  std::string rest = name, result;
  std::smatch match;
  while (std::regex_search(rest, match, start)) {
    const std::string digits = match[1], tail = rest.substr(match.position(2));
    std::string id;
    size_t skipped = 0, length = 0;
    for (; skipped < digits.size() && id.empty(); ++skipped) {
      length = std::stoul(digits.substr(skipped));
      id = stable_module_id(tail, length);
    }
    if (id.empty()) break;
    result += rest.substr(0, match.position(1)) + digits.substr(0, skipped - 1) + "{" + id + "}";
    rest = tail.substr(length);
  }
  return result + rest;
}

}  // namespace cudacpu
