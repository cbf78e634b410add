// printf: arguments lie in a buffer, each at its natural alignment.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "device/access.h"

namespace cudacpu {

inline uint32_t device_printf(uint64_t format_address, uint64_t arguments) {
  const char* format = reinterpret_cast<const char*>(format_address);
  std::string text;
  uint64_t next = arguments;
  auto take = [&](auto sample) {
    next = (next + sizeof sample - 1) / sizeof sample * sizeof sample;
    const auto value = load_parameter<decltype(sample)>(reinterpret_cast<const unsigned char*>(next));
    next += sizeof sample;
    return value;
  };
  char piece[256];
  while (*format) {
    if (*format != '%' || format[1] == '%') {
      if (*format == '%') ++format;
      text += *format++;
      continue;
    }
    std::string spec;
    do spec += *format++;
    while (*format && !std::strchr("diouxXcsfFeEgGaAp", *format));
    if (!*format) break;
    const char conversion = *format++;
    spec += conversion;
    const bool is_long = spec.find('l') != std::string::npos || spec.find('z') != std::string::npos;
    if (std::strchr("fFeEgGaA", conversion))
      snprintf(piece, sizeof piece, spec.c_str(), take(double()));
    else if (std::strchr("sp", conversion))
      snprintf(piece, sizeof piece, spec.c_str(), take(static_cast<void*>(nullptr)));
    else if (is_long)
      snprintf(piece, sizeof piece, spec.c_str(), take(0ll));
    else
      snprintf(piece, sizeof piece, spec.c_str(), take(0));
    text += piece;
  }
  fputs(text.c_str(), stdout);
  fflush(stdout);
  return 0;
}

}  // namespace cudacpu
