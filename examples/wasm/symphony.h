/* Symphony's system calls for C, compiled to WebAssembly (wasm32-wasi). Copy this file into your program.
 *
 *   char *answer = sym_call("{\"op\": \"tokenize\", \"args\": {\"text\": %s}}", sym_quote("lamp"));
 *   int ids[64], n = sym_numbers(answer, "tokens", ids, 64);
 *   free(answer);
 *
 * A call is JSON: the name of the call and its arguments (`symphony man tokenize`); token ids are lists of numbers. So is its
 * answer: {"ok": {...}} or {"err": {"reason": "ENOENT", "message": "..."}}. The readers below look for the first field of that name;
 * for deeper answers use a JSON library.
 *
 * SPDX-License-Identifier: MIT-0
 */
#ifndef SYMPHONY_H
#define SYMPHONY_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the machine gives. `call` makes the call and gives the length of its answer, `take` writes the answer. `start` does not wait: it
 * gives the call's id, or minus the length of an error; `next` waits for what comes of any call that was started. */
__attribute__((import_module("symphony"), import_name("call"))) int64_t symphony_call(const char *request, size_t size);
__attribute__((import_module("symphony"), import_name("take"))) void symphony_take(char *answer);
__attribute__((import_module("symphony"), import_name("start"))) int64_t symphony_start(const char *request, size_t size);
__attribute__((import_module("symphony"), import_name("next"))) int64_t symphony_next(int64_t timeout_ms);

/* An answer of this length, a text of yours to free. */
static char *sym_take(int64_t size) {
    char *answer = malloc(size + 1);
    if (!answer) abort();
    symphony_take(answer);
    answer[size] = 0;
    return answer;
}

/* Make the call whose JSON this is. The answer is a text of yours to free. */
static char *sym_ask(const char *request) { return sym_take(symphony_call(request, strlen(request))); }

/* What comes next of the calls that were started: {"id": ..., "part" or "ok" or "err": ...}; NULL: nothing in this time, or no more. */
static inline char *sym_next(int64_t timeout_ms) {
    int64_t size = symphony_next(timeout_ms);
    return size ? sym_take(size) : NULL;
}

/* Make a call whose JSON is written as by printf. */
__attribute__((format(printf, 1, 2))) static char *sym_call(const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    char *request = malloc(size + 1);
    if (!request) abort();
    vsnprintf(request, size + 1, format, again);
    va_end(args);
    va_end(again);
    char *answer = sym_ask(request);
    free(request);
    return answer;
}

/* A text as JSON, with its quotes; yours to free. */
static char *sym_quote(const char *text) {
    char *quoted = malloc(6 * strlen(text) + 3), *to = quoted;
    if (!quoted) abort();
    *to++ = '"';
    for (; *text; text++) {
        unsigned char c = *text;
        if (c == '"' || c == '\\' || c < 0x20)
            to += sprintf(to, c == '"' || c == '\\' ? "\\%c" : "\\u%04x", c);
        else
            *to++ = c;
    }
    *to++ = '"';
    *to = 0;
    return quoted;
}

/* Where the value of a field begins; NULL if the answer has no such field. */
static const char *sym_field(const char *answer, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(answer, key);
    return at ? at + strlen(key) : NULL;
}

/* Did the call fail? */
static int sym_failed(const char *answer) { return strncmp(answer, "{\"err\"", 6) == 0; }

/* A number; -1 if it is not there. */
static long sym_number(const char *answer, const char *name) {
    const char *at = sym_field(answer, name);
    return at ? strtol(at, NULL, 10) : -1;
}

/* The numbers of a list, at most `room` of them; how many there are. */
static int sym_numbers(const char *answer, const char *name, int *numbers, int room) {
    const char *at = sym_field(answer, name);
    int count = 0;
    if (!at || *at != '[') return 0;
    for (at++; *at && *at != ']'; at++) {
        char *end;
        long number = strtol(at, &end, 10);
        if (end == at) continue;
        if (count < room) numbers[count] = (int)number;
        count++;
        at = end - 1;
    }
    return count;
}

#endif
