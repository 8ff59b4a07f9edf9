"""Which scopes a user may be granted at a resource."""

from keystile_auth.store.users import User
from keystile_auth.tokens.resources import Resource


def permitted_scopes(resource: Resource, user: User) -> tuple[str, ...]:
    """The scopes that `user` may be granted, in the resource's order; all where the resource says nothing of users.

    Groups are named with their identity, `corp/engineers`: the same name elsewhere is another group. An identity's
    own name stands for all its users.
    """
    if not resource.user_scopes:
        return tuple(resource.scopes)
    names = {user.identity, *(f"{user.identity}/{group}" for group in user.groups)}
    permitted = {scope for name in names for scope in resource.user_scopes.get(name, ())}
    return tuple(scope for scope in resource.scopes if scope in permitted)


def grantable(resource: Resource, user: User) -> str | None:
    """The same as `Subject.grantable` says it: None for all."""
    permitted = permitted_scopes(resource, user)
    return " ".join(permitted) if len(permitted) < len(resource.scopes) else None
