"""(to come)"""
import sys
def figure(value, unit):
    return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
def main(args): pass
