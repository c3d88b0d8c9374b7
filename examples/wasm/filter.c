/* Keep the lines of the input that the model says yes to.
 *
 *   symphony run filter.wasm --question "Is this line about the sea?" < lines.txt
 *
 * The question is computed once, in a KV file; each line is asked in a fork of it, which shares all that is computed. The answer is
 * the better of two tokens, so it is always a yes or a no. Build: README.md.
 */
#include "symphony.h"

enum { MAX_LINE = 4096 };

static void die(const char *answer) {
    fprintf(stderr, "filter: %s\n", answer);
    exit(1);
}

/* The list of the text's tokens, as JSON. */
static char *tokens_of(const char *text) {
    char *quoted = sym_quote(text);
    char *answer = sym_call("{\"op\": \"tokenize\", \"args\": {\"text\": %s, \"special\": false}}", quoted);
    const char *list = sym_field(answer, "tokens"), *end = list ? strchr(list, ']') : NULL;
    if (!end) die(answer);
    char *tokens = strndup(list, end + 1 - list);
    free(answer);
    free(quoted);
    return tokens;
}

static int first_token_of(const char *text) {
    int id = -1;
    char *answer = sym_call("{\"op\": \"tokenize\", \"args\": {\"text\": \"%s\", \"special\": false}}", text);
    if (sym_numbers(answer, "tokens", &id, 1) < 1) die(answer);
    free(answer);
    return id;
}

/* A number of the answer to a call; ends the program if the call failed. */
static long number_of(char *answer, const char *name) {
    if (sym_failed(answer)) die(answer);
    long number = sym_number(answer, name);
    free(answer);
    return number;
}

/* Does the model say yes to the line, after what is in the file? */
static int says_yes(long question_fd, const char *line, int yes, int no) {
    char text[MAX_LINE + 64];
    snprintf(text, sizeof text, "\nLine: %s\nAnswer (yes or no):", line);
    char *tokens = tokens_of(text);
    long fd = number_of(sym_call("{\"op\": \"fork\", \"args\": {\"fd\": %ld}}", question_fd), "fd");
    number_of(sym_call("{\"op\": \"forward\", \"args\": {\"fd\": %ld, \"tokens\": %s, \"top_k\": 0}}", fd, tokens), "length");
    int chosen = -1;
    char *answer = sym_call("{\"op\": \"sample\", \"args\": {\"fd\": %ld, \"sampler\": {\"allowed\": [%d, %d]}}}", fd, yes, no);
    if (sym_numbers(answer, "tokens", &chosen, 1) < 1) die(answer);
    free(answer);
    free(tokens);
    free(sym_call("{\"op\": \"close\", \"args\": {\"fd\": %ld}}", fd));
    return chosen == yes;
}

int main(int argc, char **argv) {
    const char *question = "Is this line about the sea?", *option = "--question=";
    static char line[MAX_LINE];
    int num_lines = 0, num_kept = 0;

    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], option, strlen(option)) == 0) question = argv[i] + strlen(option);

    int yes = first_token_of(" yes"), no = first_token_of(" no");
    char *tokens = tokens_of(question);
    long fd = number_of(sym_call("{\"op\": \"open\", \"args\": {\"tokens\": %s, \"flags\": 1}}", tokens), "fd");
    free(tokens);
    number_of(sym_call("{\"op\": \"forward\", \"args\": {\"fd\": %ld, \"top_k\": 0, \"keep\": \"none\"}}", fd), "length");

    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!*line) continue;
        num_lines++;
        if (says_yes(fd, line, yes, no)) {
            puts(line);
            num_kept++;
        }
    }
    free(sym_call("{\"op\": \"exit\", \"args\": {\"code\": 0, \"value\": \"{\\\"lines\\\": %d, \\\"kept\\\": %d}\"}}", num_lines, num_kept));
    return 0;
}
