"""The rules that move traffic to another version, and judge the suspended one."""
