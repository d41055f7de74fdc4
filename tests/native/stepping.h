/* A stopped child moved through its instructions: one step, or up to an address. For x86-64. */
#ifndef STEPPING_H
#define STEPPING_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static void *where(uint64_t address) { return (void *)(uintptr_t)address; }

static uint64_t instruction_pointer(pid_t child) {
    struct user_regs_struct registers;
    ptrace(PTRACE_GETREGS, child, 0, &registers);
    return registers.rip;
}

static void set_instruction_pointer(pid_t child, uint64_t address) {
    struct user_regs_struct registers;
    ptrace(PTRACE_GETREGS, child, 0, &registers);
    registers.rip = address;
    ptrace(PTRACE_SETREGS, child, 0, &registers);
}

/* One step; 0 = the child ended. */
static int step(pid_t child) {
    int status;
    ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    waitpid(child, &status, 0);
    return WIFSTOPPED(status);
}

/* Run until `address` is reached for the `times`-th time; 0 = it never was. */
static int run_to(pid_t child, uint64_t address, long times) {
    int status;
    errno = 0;
    long code = ptrace(PTRACE_PEEKTEXT, child, where(address), 0);
    if (errno != 0 || ptrace(PTRACE_POKETEXT, child, where(address), (code & ~0xFFL) | 0xCC) != 0)
        return 0;
    for (;;) {
        ptrace(PTRACE_CONT, child, 0, 0);
        waitpid(child, &status, 0);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) return 0;
        ptrace(PTRACE_POKETEXT, child, where(address), code);
        set_instruction_pointer(child, address);
        do { /* a repeated string instruction comes back to itself */
            if (--times == 0) return 1;
            if (!step(child)) return 0;
        } while (instruction_pointer(child) == address);
        ptrace(PTRACE_POKETEXT, child, where(address), (code & ~0xFFL) | 0xCC);
    }
}

/* The same from where the child is, which counts. */
static int run_on(pid_t child, uint64_t address, long times) {
    if (instruction_pointer(child) != address) return run_to(child, address, times);
    if (--times == 0) return 1;
    return step(child) && run_on(child, address, times);
}

#endif
